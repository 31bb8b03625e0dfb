"""What must come through the ring unchanged, each item through a real producer process."""

from __future__ import annotations

import functools
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from fkat.data import ShmDataLoader
from tests.equality import assert_same, same

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Sample:
    """A dataclass with a tensor and a container."""

    tokens: torch.Tensor
    names: list = field(default_factory=list)


@dataclass(frozen=True)
class FrozenSample:
    """A dataclass that cannot be assigned to."""

    tokens: torch.Tensor


class Batch:
    """A class of the user's own, as Hugging Face's BatchEncoding is one."""

    def __init__(self, data):
        self.data = data


class BatchDict(dict):
    """A dict with attributes."""


class Labelled(torch.Tensor):
    """A tensor subclass with an attribute."""


def carried(microbatch):
    """What arrives in the trainer when a producer makes ``microbatch``."""
    loader = ShmDataLoader(0, functools.partial(list, [microbatch]), multiprocessing_context="fork")
    try:
        return next(loader)
    finally:
        loader.teardown()


def dtypes():
    """Every dtype that this torch has, but the quantized ones."""
    found = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    return sorted((d for d in found if not str(d).startswith(("torch.q"))), key=str)


def of_dtype(dtype):
    """64 bytes seen as ``dtype``: odd values, infinities and NaNs among them."""
    raw = torch.arange(192, 256, dtype=torch.uint8)
    return (raw % 2).bool() if dtype is torch.bool else raw.view(dtype)


def labelled():
    tensor = torch.arange(6.0).as_subclass(Labelled)
    tensor.label = "six"
    return tensor


@pytest.mark.parametrize("dtype", dtypes(), ids=str)
def test_dtype_comes_through(dtype):
    microbatch = of_dtype(dtype)
    assert_same(carried(microbatch), microbatch)


@pytest.mark.parametrize("dtype", dtypes(), ids=str)
def test_dtype_with_two_dimensions_comes_through(dtype):
    microbatch = of_dtype(dtype)
    microbatch = microbatch.view(2, microbatch.numel() // 2)
    assert_same(carried(microbatch), microbatch)


TENSORS = {
    "0-dim": lambda: torch.tensor(3.5),
    "0-dim bool": lambda: torch.tensor(True),
    "0-dim float8": lambda: torch.tensor(1.5).to(torch.float8_e4m3fn),
    "empty": lambda: torch.empty(0),
    "empty with other dimensions": lambda: torch.empty(3, 0, 5, dtype=torch.int32),
    "empty float8": lambda: torch.empty(0, 4).to(torch.float8_e5m2),
    "every second element": lambda: torch.arange(10)[::2],
    "a column": lambda: torch.arange(12).view(3, 4)[:, 1],
    "a slice with an offset": lambda: torch.arange(100)[17:23],
    "expanded": lambda: torch.arange(3).view(3, 1).expand(3, 5),
    "expanded 0-dim": lambda: torch.tensor(7).expand(4, 4),
    "transposed": lambda: torch.arange(6).view(2, 3).t(),
    "permuted": lambda: torch.arange(24).view(2, 3, 4).permute(2, 0, 1),
    "channels_last": lambda: torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "channels_last_3d": lambda: torch.rand(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
    "sizes of one": lambda: torch.arange(6).view(1, 2, 1, 3, 1),
    "64 dimensions": lambda: torch.arange(2).view([1] * 63 + [2]),
    "overlapping windows": lambda: torch.arange(8).unfold(0, 4, 1),
    "conjugated": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj(),
    "conjugated complex128": lambda: torch.tensor([1 + 2j], dtype=torch.complex128).conj(),
    "negative view": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    "requires grad": lambda: torch.rand(3, requires_grad=True),
    "float8 channels": lambda: torch.rand(2, 3).to(torch.float8_e4m3fn).t(),
    "parameter": lambda: torch.nn.Parameter(torch.rand(3)),
    "frozen parameter": lambda: torch.nn.Parameter(torch.rand(3), requires_grad=False),
    "sparse coo": lambda: torch.sparse_coo_tensor([[0, 2]], [1.0, 2.0], (4,)),
    "sparse coo, coalesced": lambda: torch.eye(3).to_sparse(),
    "subclass": labelled,
    "inference": lambda: torch.inference_mode()(torch.ones)(3),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS)
def test_tensor_comes_through(make):
    microbatch = make()
    assert_same(carried(microbatch), microbatch)


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("convert", ["to_sparse_csr", "to_sparse_csc"])
def test_compressed_sparse_tensor_comes_through(convert):
    microbatch = getattr(torch.eye(3), convert)()
    assert_same(carried(microbatch), microbatch)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage")
def test_quantized_tensor_comes_through():
    microbatch = torch.quantize_per_tensor(torch.rand(5), 0.1, 3, torch.quint8)
    assert_same(carried(microbatch), microbatch)


def structured():
    dtype = np.dtype([("id", "<i4"), ("box", "<f8", (2,)), ("name", "S3")])
    return np.array([(1, (0.5, 1.5), b"abc"), (2, (2.5, 3.5), b"de")], dtype=dtype)


def readonly():
    array = np.arange(5)
    array.flags.writeable = False
    return array


ARRAYS = {
    **{f"dtype {char}": functools.partial(np.ones, (2, 3), char) for char in "?bhilqBHILQefdgFDG"},
    "0-d": lambda: np.array(3.5),
    "0-d structured": lambda: structured()[0:1].reshape(()),
    "empty": lambda: np.empty((0, 3), np.int16),
    "NaNs": lambda: np.array([np.nan, -np.nan, np.inf, -0.0]),
    "structured": structured,
    "structured, aligned": lambda: np.zeros(3, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "structured, a field": lambda: structured()["box"],
    "structured with objects": lambda: np.array([(1, "x")], [("n", "i4"), ("o", "O")]),
    "datetime64": lambda: np.array(["2024-02-29", "NaT"], "datetime64[D]"),
    "timedelta64": lambda: np.array([1, -5], "timedelta64[ms]"),
    "unicode": lambda: np.array(["a", "żółw", ""]),
    "bytes": lambda: np.array([b"abc", b"d"]),
    "void": lambda: np.array([b"ab", b"cd"], "V2"),
    "no bytes at all": lambda: np.array([b"", b""], "S0"),
    "big-endian": lambda: np.array([1, 2, 3], ">i4"),
    "big-endian float": lambda: np.array([1.5, np.nan], ">f8"),
    "objects": lambda: np.array([1, "two", None, [3]], dtype=object),
    "F-order": lambda: np.asfortranarray(np.arange(6).reshape(2, 3)),
    "F-order big-endian": lambda: np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
    "F-order datetime64": lambda: np.asfortranarray(np.zeros((2, 3), "datetime64[s]")),
    "read-only": readonly,
    "strided": lambda: np.arange(20)[3::4],
    "reversed": lambda: np.arange(5)[::-1],
    "permuted": lambda: np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    "broadcast": lambda: np.broadcast_to(np.arange(3), (4, 3)),
    "strided structured": lambda: structured()[::2],
    "masked": lambda: np.ma.array([1, 2, 3], mask=[0, 1, 0]),
    "record array": lambda: np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
}


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_array_comes_through(make):
    microbatch = make()
    assert_same(carried(microbatch), microbatch)


OBJECTS = {
    **{
        f"numpy scalar {kind.__name__}": functools.partial(kind, 1)
        for kind in (np.bool_, np.int8, np.uint64, np.float16, np.float32, np.complex64, np.str_)
    },
    "numpy scalar datetime64": lambda: np.datetime64("2024-02-29T12:00"),
    "numpy scalar void": lambda: structured()[1],
    "str": lambda: "żółw \ud800 \0",
    "bytes": lambda: bytes(range(256)),
    "bytearray": lambda: bytearray(b"abc"),
    "int": lambda: -(2**200),
    "bool": lambda: True,
    "float": lambda: float("nan"),
    "complex": lambda: 1 - 2j,
    "None": lambda: None,
    "empty dict": dict,
    "dict in its order": lambda: {"z": torch.ones(1), "a": 2, 3: "x", (1, 2): None},
    "OrderedDict": lambda: OrderedDict([("b", torch.ones(1)), ("a", 2)]),
    "defaultdict": lambda: defaultdict(list, {"a": [torch.ones(1)]}),
    "list": lambda: [torch.ones(1), 2, "x"],
    "tuple": lambda: (torch.ones(1), np.ones(1)),
    "empty tuple": tuple,
    "namedtuple": lambda: Pair(torch.ones(1), right=np.ones(1)),
    "torch.Size": lambda: torch.Size([2, 3]),
    "dtype": lambda: [torch.float8_e5m2, np.dtype(">i4")],
    "dataclass": lambda: Sample(torch.ones(2), ["a", torch.ones(1)]),
    "frozen dataclass": lambda: FrozenSample(torch.ones(2)),
    "user class": lambda: Batch({"x": torch.ones(2)}),
    "set": lambda: {1, "two", 3.0},
    "frozenset": lambda: frozenset({1, 2}),
    "slice": lambda: slice(1, 2),
    "nested": lambda: {"a": [(Pair({"b": torch.ones(1)}, [Sample(torch.zeros(2))]), None)]},
    "200 leaves": lambda: (
        [torch.full((i % 7, 3), i) for i in range(100)] + [np.full(i % 5, i) for i in range(100)]
    ),
}


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_object_comes_through(make):
    microbatch = make()
    assert_same(carried(microbatch), microbatch)


def test_dict_subclass_keeps_its_attributes():
    microbatch = BatchDict(x=torch.ones(2))
    microbatch.source = "here"
    arrived = carried(microbatch)
    assert_same(arrived, microbatch)
    assert arrived.source == "here"


def test_one_tensor_in_two_places_stays_one_tensor():
    tensor = torch.ones(3)
    first, second, copy = carried([tensor, tensor, tensor.clone()])
    assert first is second
    assert copy is not first


def test_one_array_in_two_places_stays_one_array():
    array = np.ones(3)
    arrived = carried({"a": array, "b": (array,)})
    assert arrived["a"] is arrived["b"][0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.rand(3, requires_grad=True),
        lambda: torch.ones(3).to(torch.float8_e8m0fnu),
        lambda: torch.tensor([1j]).conj(),
        structured,
        lambda: [1],
    ],
    ids=["requires grad", "float8_e8m0fnu", "conjugated", "structured", "list"],
)
def test_sharing_survives_for_every_kind_of_leaf(make):
    leaf = make()
    assert_same(carried([leaf, {"again": leaf}]), [leaf, {"again": leaf}])


def test_a_list_that_contains_itself_comes_through():
    microbatch = [torch.ones(1)]
    microbatch.append(microbatch)
    arrived = carried(microbatch)
    assert arrived[1] is arrived


def test_a_tensor_that_requires_grad_is_a_leaf_of_autograd_on_arrival():
    weight = carried(torch.tensor([2.0, 3.0], requires_grad=True))
    (weight**2).sum().backward()
    assert weight.is_leaf
    assert weight.grad.tolist() == [4.0, 6.0]


def test_a_tensor_computed_from_others_is_refused_by_its_place():
    computed = torch.ones(2, requires_grad=True) * 2
    with pytest.raises(TypeError, match=r"microbatch\['loss'\]\[1\].*detach"):
        carried({"x": torch.ones(1), "loss": [None, computed]})


def test_a_read_only_array_arrives_writable():
    arrived = carried(readonly())
    arrived += 1
    assert arrived.tolist() == [1, 2, 3, 4, 5]


def test_the_slice_of_a_large_tensor_is_sent_alone():
    large = torch.zeros(1 << 22, dtype=torch.uint8)
    assert carried(large[:64]).untyped_storage().nbytes() < 4096


def test_equality_helper_sees_what_differs():
    pairs = [
        (torch.ones(2), torch.ones(2).double()),
        (torch.ones(2), torch.ones(1, 2)),
        (torch.tensor(0.0), torch.tensor(-0.0)),
        (torch.ones(2, 3), torch.ones(3, 2).t()),
        (torch.ones(2), np.ones(2, np.float32)),
        (np.ones(2, "<i4"), np.ones(2, ">i4")),
        (np.ones((2, 3)), np.asfortranarray(np.ones((2, 3)))),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, OrderedDict(a=1)),
        ((1, 2), Pair(1, 2)),
        (1, True),
        (0.0, -0.0),
        (Batch(1), Batch(2)),
        (torch.ones(1), torch.nn.Parameter(torch.ones(1))),
        ([torch.ones(1)] * 2, [torch.ones(1), torch.ones(1)]),
        ([torch.ones(1), torch.ones(1)], [torch.ones(1)] * 2),
    ]
    assert [pair for pair in pairs if same(*pair)] == []
    assert same(torch.tensor(float("nan")), torch.tensor(float("nan")))
