"""Whether two microbatches are the same: types, dtypes, shapes, strides, bits, sharing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch


def assert_same(actual, expected):
    """Fail, naming the place, unless ``actual`` is what ``expected`` is.

    Types of containers and leaves, order of dicts, dtypes, shapes, strides where the expected
    tensor is dense, every bit of every value (so NaN is NaN), ``requires_grad``, and which places
    hold one and the same object.
    """
    _Comparison().compare(actual, expected, "microbatch")


def same(actual, expected):
    """Whether `assert_same` holds."""
    try:
        assert_same(actual, expected)
    except AssertionError:
        return False
    return True


class _Comparison:
    def __init__(self):
        self._partner = {}  # (side, id of an object) -> what stands in its place on the other side
        self._kept = []

    def compare(self, actual, expected, path):
        assert type(actual) is type(expected), (
            f"{path} is a {type(actual).__name__}, not a {type(expected).__name__}"
        )
        if isinstance(expected, _SHAREABLE) and self._is_known(actual, expected, path):
            return
        for kind, compare in _BY_TYPE:
            if isinstance(expected, kind):
                compare(self, actual, expected, path)
                return
        if dataclasses.is_dataclass(expected) or hasattr(expected, "__dict__"):
            self.compare(vars(actual), vars(expected), f"{path}.__dict__")
        else:
            assert actual == expected, f"{path} is {actual!r}, not {expected!r}"

    def _is_known(self, actual, expected, path):
        for side, one, other in (("actual", actual, expected), ("expected", expected, actual)):
            known = (side, id(one)) in self._partner
            partner = self._partner.setdefault((side, id(one)), other)
            assert partner is other, f"{path} shares its object in one of the two only"
        self._kept += [expected, actual]  # an id() is only unique while its object lives
        return known

    def _tensor(self, actual, expected, path):
        for name in ("dtype", "shape", "layout", "device", "requires_grad"):
            left, right = getattr(actual, name), getattr(expected, name)
            assert left == right, f"{path}.{name} is {left}, not {right}"
        if expected.is_quantized:
            assert actual.qscheme() == expected.qscheme(), f"{path} has another qscheme"
            assert actual.q_scale() == expected.q_scale(), f"{path} has another scale"
            assert actual.q_zero_point() == expected.q_zero_point(), f"{path} has another zero"
            self._tensor(actual.int_repr(), expected.int_repr(), f"{path}.int_repr()")
        elif expected.layout is torch.strided:
            if is_dense(expected):
                assert steps(actual) == steps(expected), (
                    f"{path} has strides {actual.stride()}, not {expected.stride()}"
                )
            assert tensor_bytes(actual) == tensor_bytes(expected), (
                f"{path} is {actual}, not {expected}"
            )
        else:
            for name in _COMPONENTS[expected.layout]:
                parts = (getattr(tensor, name)() for tensor in (actual, expected))
                self.compare(*parts, f"{path}.{name}()")
        if type(expected) not in (torch.Tensor, torch.nn.Parameter):
            self.compare(vars(actual), vars(expected), f"{path}.__dict__")

    def _array(self, actual, expected, path):
        for name in ("dtype", "shape"):
            left, right = getattr(actual, name), getattr(expected, name)
            assert left == right, f"{path}.{name} is {left}, not {right}"
        assert actual.dtype.isnative == expected.dtype.isnative, f"{path} has other byte order"
        if expected.flags.forc and expected.size > 1:
            assert actual.flags.fnc == expected.flags.fnc, f"{path} has another memory order"
        if expected.dtype.hasobject:
            self.compare(actual.tolist(), expected.tolist(), f"{path}.tolist()")
        else:
            assert actual.tobytes() == expected.tobytes(), f"{path} is {actual}, not {expected}"

    def _scalar(self, actual, expected, path):
        self._array(np.asarray(actual), np.asarray(expected), path)

    def _number(self, actual, expected, path):
        self._array(np.array(actual), np.array(expected), path)

    def _mapping(self, actual, expected, path):
        assert list(actual) == list(expected), f"{path} has keys {list(actual)}"
        for key in expected:
            self.compare(actual[key], expected[key], f"{path}[{key!r}]")
        factory = getattr(expected, "default_factory", None)
        assert getattr(actual, "default_factory", None) == factory, f"{path}.default_factory"

    def _sequence(self, actual, expected, path):
        assert len(actual) == len(expected), f"{path} has {len(actual)} elements"
        for i, pair in enumerate(zip(actual, expected, strict=True)):
            self.compare(*pair, f"{path}[{i}]")


_SHAREABLE = torch.Tensor | np.ndarray | list | dict | set

_BY_TYPE = (
    (torch.Tensor, _Comparison._tensor),
    (np.ndarray, _Comparison._array),
    (np.generic, _Comparison._scalar),
    (float | complex, _Comparison._number),
    (Mapping, _Comparison._mapping),
    (list | tuple, _Comparison._sequence),
)

_COMPONENTS = {
    torch.sparse_coo: ("_indices", "_values", "is_coalesced"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
}


def tensor_bytes(tensor):
    """The elements in row-major order, as bytes."""
    if tensor.numel() == 0:
        return b""
    plain = tensor.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    flat = plain.contiguous().reshape(-1)
    if flat.numel() == 1:  # is contiguous with any stride, which view() does not like
        flat = flat.as_strided((1,), (1,))
    return flat.view(torch.uint8).numpy().tobytes()


def steps(tensor):
    """Strides that mean something: those of dimensions with more than one element."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return [stride for size, stride in pairs if size > 1 and tensor.numel() > 0]


def is_dense(tensor):
    """Whether the elements fill their memory without holes or overlap."""
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    expected = 1
    for stride, size in sorted((st, si) for st, si in pairs if si > 1):
        if stride != expected:
            return False
        expected *= size
    return True
