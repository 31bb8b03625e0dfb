"""What is pickled once, as long as nothing but leaves changes; and what is a change."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fkat.data._transport.codec import Encoder, _LeafPickler, decode, from_dlpack
from tests.equality import assert_same, is_dense
from tests.test_codec_properties import Sample, microbatches, relaxed

X, Y = torch.arange(6.0).view(2, 3), torch.arange(6).view(3, 2)


class Tagged(torch.Tensor):
    """A class of the user's own."""


@pytest.fixture
def pickled(monkeypatch):
    """The microbatches that were left to pickle."""
    done = []
    dump = _LeafPickler.dump

    def counted(pickler, microbatch):
        done.append(microbatch)
        return dump(pickler, microbatch)

    monkeypatch.setattr(_LeafPickler, "dump", counted)
    return done


def sent(encoder, microbatch):
    """What the trainer would make of what an encoder makes of it."""
    structure, leaves = encoder.encode(microbatch, b"prefix")
    assert structure.startswith(b"prefix")
    tensors = [leaf if isinstance(leaf, np.ndarray) else from_dlpack(leaf) for leaf in leaves]
    for leaf in tensors:
        assert isinstance(leaf, np.ndarray) or is_dense(leaf) or leaf.numel() == 0
    return decode(structure.removeprefix(b"prefix"), tensors)


def rows(i):
    return {
        "x": torch.full((i + 1,), i), "y": [torch.ones(3, 4).T, ("name", i < 99, 2.5, None, ())],
        "z": np.full((2, i), i), 7: {"weights": torch.ones(i).to(torch.bfloat16)},
    }  # fmt: skip


def test_only_the_first_two_are_pickled(pickled):
    encoder = Encoder()
    for i in range(6):
        assert_same(sent(encoder, rows(i)), rows(i))
    assert len(pickled) == 2


def test_a_bare_leaf_is_pickled_twice_whatever_it_is(pickled):
    encoder = Encoder()
    for leaf in (X, Y, np.ones(3), X.T, torch.zeros(0, 3), torch.tensor(1, dtype=torch.int8)):
        assert_same(sent(encoder, leaf), leaf)
    assert len(pickled) == 2


def shared(leaf):
    return [leaf, leaf]


def one_list_twice(leaf):
    inner = [leaf]
    return [inner, inner]


CHANGES = {
    "a boolean instead of a number": ([X, 1], [X, True]),
    "a float instead of an integer": ([X, 1], [X, 1.0]),
    "another sign of zero": ([X, 0.0], [X, -0.0]),
    "another number": ([X, 2**70], [X, 2**70 + 1]),
    "not a number": ([X, 1.0], [X, math.nan]),
    "another text": ([X, "text"], [X, "texts"]),
    "None": ([X, "text"], [X, None]),
    "no None": ([X, None], [X, 0]),
    "another key": ({"x": X, "y": Y}, {"x": X, "z": Y}),
    "a key of another type": ({1: X}, {True: X}),
    "another order of keys": ({"x": X, "y": Y}, {"y": Y, "x": X}),
    "a key more": ({"x": X}, {"x": X, "y": Y}),
    "a key less": ({"x": X, "y": Y}, {"x": X}),
    "one more in a list": ([X], [X, Y]),
    "one less in a list": ([X, Y], [X]),
    "one more in a tuple": ((X,), (X, Y)),
    "a tuple that is empty no more": ([X, ()], [X, (1,)]),
    "a tuple instead of a list": ([X, [Y]], [X, (Y,)]),
    "a list instead of a tuple": ([X, (Y,)], [X, [Y]]),
    "a class of dicts": ({"x": X}, OrderedDict(x=X)),
    "a leaf instead of a constant": ([X, 1], [X, Y]),
    "a constant instead of a leaf": ([X, Y], [X, 1]),
    "a container instead of a leaf": ([X, Y], [X, [Y]]),
    "a numpy scalar": ([X, Y], [X, np.float32(1)]),
    "a class of the user's": ([X, Y], [X, Sample(Y)]),
    "one leaf twice": ([X, X.clone()], shared(X)),
    "no longer one leaf twice": (shared(X), [X, X.clone()]),
    "another leaf twice": (shared(X), shared(Y)),
    "one list twice": ([[X], [Y]], one_list_twice(X)),
    "one array twice": ([np.ones(2), np.ones(2)], shared(np.ones(2))),
    "a list of its own": ([[1], [1]], one_list_twice(1)),
    "two empty lists that are one": ([[], []], [[]] * 2),
}

UNUSUAL = {
    "requires grad": torch.ones(3, requires_grad=True),
    "expanded": torch.ones(3, 1).expand(3, 4),
    "with holes and overlaps that add up": torch.arange(4.0).as_strided((2, 2), (3, 0)),
    "sliced": torch.arange(10)[::2],
    "conjugated": torch.ones(2, dtype=torch.complex64).conj(),
    "negated": torch.ones(2, dtype=torch.complex64).conj().imag,
    "sparse": torch.eye(3).to_sparse(),
    "a parameter": torch.nn.Parameter(torch.ones(2)),
    "a subclass": torch.ones(2).as_subclass(Tagged),
    "a structured array": np.zeros(2, dtype=[("a", "<i4"), ("b", "<f8")]),
    "big-endian": np.arange(3, dtype=">i4"),
    "an array of objects": np.array(["a", None], dtype=object),
    "an array with holes": np.arange(10)[::2],
    "backwards": np.arange(10)[::-1],
    "fortran": np.asfortranarray(np.ones((2, 3))),
    "channels last": torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
}
CHANGES |= {name: ([X, Y], [X, leaf]) for name, leaf in UNUSUAL.items()}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_comes_through(name):
    before, after = CHANGES[name]
    encoder = Encoder()
    for microbatch in (before, before, before, after, before, after, after, after, before):
        assert_same(sent(encoder, microbatch), microbatch)


def test_the_bytes_are_those_of_the_new_leaves():
    encoder = Encoder()
    for i in range(5):
        (leaf,) = encoder.encode([torch.full((4,), i)])[1]
        assert from_dlpack(leaf).tolist() == [i] * 4


def test_nothing_is_kept_of_a_microbatch():
    encoder = Encoder()
    for _ in range(4):
        array = np.ones(3)
        before = [array, "text"]
        assert len(encoder.encode(before)[1]) == 1
        del before
        array.resize(5)  # an error as long as anything else refers to it


def test_texts_that_vary_are_pickled_each_time(pickled):
    encoder = Encoder()
    for i in range(5):
        assert_same(sent(encoder, {"x": X, "text": f"{i}"}), {"x": X, "text": f"{i}"})
    assert len(pickled) == 5


def test_a_lambda_in_the_place_of_a_leaf_is_named():
    encoder = Encoder()
    for _ in range(3):
        encoder.encode([X, Y])
    with pytest.raises(TypeError, match=r"microbatch\[1\]"):
        encoder.encode([X, lambda: None])
    assert_same(sent(encoder, [X, Y]), [X, Y])


@st.composite
def neighbours(draw):
    """Microbatches that differ in one place or in none."""
    first = draw(microbatches())
    second = copy.deepcopy(first)
    containers = [each for each in _containers(second) if len(each)]
    if containers:
        place = draw(st.sampled_from(containers))
        key = draw(st.sampled_from(list(place if isinstance(place, dict) else range(len(place)))))
        place[key] = draw(microbatches())
    return first, second


def _containers(microbatch):
    if isinstance(microbatch, dict | list):
        yield microbatch
    inner = microbatch.values() if isinstance(microbatch, dict) else microbatch
    if isinstance(microbatch, dict | list | tuple):
        for each in inner:
            yield from _containers(each)


@relaxed
@given(neighbours())
def test_one_behind_another_comes_through(pair):
    first, second = pair
    encoder = Encoder()
    for microbatch in (first, first, first, second, second, second, first):
        assert_same(sent(encoder, microbatch), microbatch)
