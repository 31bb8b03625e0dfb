"""Microbatches of random shape whose every byte follows from its place, checked where they lie.

A leaf's bytes are a stretch of one long random tape, and where it begins follows from the number of
the microbatch and of the leaf. So a device that has the tape says by itself what a leaf must hold:
the comparison is one more kernel behind the copy, and the host never waits for its answer.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

TAPE_NBYTES = 16 << 20
ALIGNMENT = 16  # of a leaf on the tape: a multiple of every item size

# Compared as integers of the same size: NaN is what it is, and no dtype lacks a comparison.
CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = [
    dtype
    for name in (
        *("uint8", "int8", "int16", "int32", "int64", "bool", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    )
    if (dtype := getattr(torch, name, None)) is not None
]
LAYOUTS = ("contiguous", "permuted", "sliced")


@functools.cache
def tape_on(device: torch.device) -> torch.Tensor:
    """The same bytes in every process and on every device, made once in each."""
    generator = torch.Generator().manual_seed(2024)
    return torch.randint(0, 256, (TAPE_NBYTES,), dtype=torch.uint8, generator=generator).to(device)


@dataclass(frozen=True)
class LeafSpec:
    """One tensor: where its bytes begin on the tape, and how they are to be read."""

    begin: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    layout: str

    @property
    def carrier(self):
        return CARRIERS[self.dtype.itemsize]

    def elements(self, device):
        """The elements as integers, laid out as the tensor is to be when it is sent."""
        stored = self.shape
        if self.layout == "sliced":  # every second column is left out
            stored = (*self.shape[:-1], 2 * self.shape[-1])
        nbytes = math.prod(stored) * self.dtype.itemsize
        stretch = tape_on(device)[self.begin : self.begin + nbytes]
        if self.dtype is torch.bool:
            stretch = stretch & 1
        whole = stretch.view(self.carrier).view(stored)
        if self.layout == "permuted":
            return whole.permute(*reversed(range(whole.dim())))
        return whole[..., ::2] if self.layout == "sliced" else whole

    def tensor(self, device):
        """The tensor as its dataset makes it."""
        return self.elements(device).view(self.dtype)


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass
class Sample:
    features: Any
    more: dict[str, Any]


def _nested(rng, leaves):
    """The leaves, in order, in containers in containers."""
    if len(leaves) < 2:
        return leaves[0] if leaves else {"nothing": []}
    middle = rng.randrange(1, len(leaves))
    first, second = _nested(rng, leaves[:middle]), _nested(rng, leaves[middle:])
    kinds = [
        lambda: [first, second],
        lambda: (first, second),
        lambda: {"first": first, "second": second},
        lambda: Pair(first, second),
        lambda: Sample(first, {"second": second}),
    ]
    return rng.choice(kinds)()


def leaf_spec(rng, max_nbytes, dtypes=DTYPES):
    """A random tensor of at most so many bytes, small ones as likely as large ones."""
    dtype = rng.choice(dtypes)
    numel = int(2 ** rng.uniform(0, math.log2(max_nbytes // dtype.itemsize)))
    columns = rng.choice([1, 3, 8])
    shapes = [(numel,), (), (0,), (4, 0, 3), (max(numel // columns, 1), columns)]
    shape = rng.choices(shapes, weights=[4, 1, 1, 1, 6])[0]
    layout = rng.choice(LAYOUTS) if shape else "contiguous"
    begin = ALIGNMENT * rng.randrange((TAPE_NBYTES - 4 * max_nbytes) // ALIGNMENT)
    return LeafSpec(begin, dtype, shape, layout)


def microbatch(index, max_nbytes, device=torch.device("cpu")):  # noqa: B008
    """Microbatch ``index``: its number, a nest of tensors of the tape, and an array."""
    rng = random.Random(index)
    # Now and then many small leaves, mostly a few.
    count = rng.choice([0, 1, 2, 3, 4, 24])
    limit = max_nbytes if count < 24 else max(max_nbytes // 64, 64)
    tensors = [leaf_spec(rng, limit).tensor(device) for _ in range(count)]
    return {"index": index, "tree": _nested(rng, tensors), "array": host_array(index)}


def host_array(index):
    """What stays on the host."""
    return np.arange(index % 7, dtype=np.int64) * index


class Patterned:
    """An iterable of microbatches; can be pickled. ``first`` tells one loader's from another's."""

    def __init__(self, count, max_nbytes=1 << 20, first=0):
        self.count = count
        self.max_nbytes = max_nbytes
        self.first = first

    def __call__(self):
        return self

    def __len__(self):
        return self.count

    def __iter__(self):
        for index in range(self.first, self.first + self.count):
            yield microbatch(index, self.max_nbytes)


def leaves_of(tree):
    """The tensors, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [leaf for part in _parts_of(tree) for leaf in leaves_of(part)]


def structure_of(tree):
    """Everything but the elements: containers, dtypes, shapes, strides."""
    if isinstance(tree, torch.Tensor):
        # A sliced tensor leaves its gaps behind; strides of empty ones and of sizes 1 say nothing.
        sent = tree if _is_dense(tree) else tree.contiguous()
        pairs = zip(sent.shape, sent.stride(), strict=True)
        strides = [stride for size, stride in pairs if size > 1 and sent.numel() > 0]
        return tree.dtype, tuple(tree.shape), strides
    return type(tree).__name__, [structure_of(part) for part in _parts_of(tree)]


def _parts_of(tree):
    if is_dataclass(tree):
        return [getattr(tree, field.name) for field in fields(tree)]
    return list(tree.values()) if isinstance(tree, dict) else list(tree)


def _is_dense(tensor):
    order = sorted(range(tensor.dim()), key=lambda i: (tensor.stride(i), tensor.size(i)))
    return tensor.permute(order[::-1]).is_contiguous()


class Checker:
    """Counts wrong elements on the device; the host asks once, at the end."""

    def __init__(self, device, count, max_nbytes=1 << 20, first=0):
        self.device = device
        self.max_nbytes = max_nbytes
        self.first = first
        self.expected = first
        self._wrong = torch.zeros(max(count, 1), dtype=torch.int64, device=device)

    def __call__(self, arrived):
        """Look at the next microbatch: its structure now, its elements when the stream is there."""
        index = self.expected
        self.expected += 1
        assert arrived["index"] == index
        array = arrived["array"]
        assert isinstance(array, np.ndarray)
        assert array.tolist() == host_array(index).tolist()
        expected = microbatch(index, self.max_nbytes, self.device)["tree"]
        assert structure_of(arrived["tree"]) == structure_of(expected)
        for got, want in zip(leaves_of(arrived["tree"]), leaves_of(expected), strict=True):
            assert got.device == self.device
            carrier = CARRIERS[got.dtype.itemsize]
            self._wrong[index - self.first] += got.view(carrier).ne(want.view(carrier)).sum()

    def wrong(self):
        """Numbers of the microbatches that held anything wrong."""
        return [self.first + i for i, count in enumerate(self._wrong.tolist()) if count > 0]
