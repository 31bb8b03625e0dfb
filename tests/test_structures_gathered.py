"""What is pickled once, as long as nothing but leaves changes; and what is a change."""

from __future__ import annotations

import copy
import math
import signal
import sys
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fkat.data import _core
from fkat.data._transport import codec
from fkat.data._transport import encoder as encoder_module
from fkat.data._transport.codec import LeafPickler, decode, from_dlpack
from fkat.data._transport.encoder import Encoder, gatherer_of
from tests.equality import assert_same, is_dense
from tests.test_codec_properties import Sample, microbatches, relaxed

X, Y = torch.arange(6.0).view(2, 3), torch.arange(6).view(3, 2)


class Tagged(torch.Tensor):
    """A class of the user's own."""


@pytest.fixture
def pickled(monkeypatch):
    """The microbatches that were left to pickle."""
    done = []
    dump = LeafPickler.dump

    def counted(pickler, microbatch, prefix):
        done.append(microbatch)
        return dump(pickler, microbatch, prefix)

    monkeypatch.setattr(LeafPickler, "dump", counted)
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
        (leaf,) = encoder.encode([torch.full((4,), i)], b"")[1]
        assert from_dlpack(leaf).tolist() == [i] * 4


def test_a_leaf_that_is_never_dense_is_pickled_twice_all_the_same(pickled):
    encoder = Encoder()
    for i in range(6):
        tokens = torch.arange(i, i + 12).view(3, 4)
        shifted = (tokens[:, :-1], tokens[:, 1:], tokens.numpy()[:, ::2])
        assert_same(sent(encoder, shifted), shifted)
    assert len(pickled) == 2


def test_structures_that_repeat_by_chance_are_learnt_seldom(monkeypatch):
    learnt = []

    def counted(structure, num_leaves):
        learnt.append(structure)
        return gatherer_of(structure, num_leaves)

    monkeypatch.setattr(encoder_module, "gatherer_of", counted)
    encoder = Encoder()
    for i in range(1000):
        assert_same(sent(encoder, [X, i // 2]), [X, i // 2])
    assert len(learnt) == 1
    for i in range(1000):
        assert_same(sent(encoder, [X, i // 100]), [X, i // 100])
    assert len(learnt) == 10  # each of the others when it has come 2, 4, ... 64 times again


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_an_error_while_a_structure_is_learnt_does_not_mix_two(monkeypatch, error):
    encoder = Encoder()
    before, after = {"a": X, "b": Y}, {"b": X, "a": Y}
    for _ in range(3):
        encoder.encode(before, b"")

    def interrupted(structure, num_leaves):
        raise error

    for _ in range(2):
        encoder.encode(after, b"")
    with monkeypatch.context() as patch:
        patch.setattr(encoder_module, "gatherer_of", interrupted)
        with pytest.raises(error):
            encoder.encode(after, b"")
    for microbatch in (before, after, after, before, after):
        assert_same(sent(encoder, microbatch), microbatch)


def test_an_encoder_goes_on_wherever_a_signal_handler_raises():
    class AlarmError(Exception):
        pass

    def raise_alarm(number, frame):
        if frame.f_code.co_filename in (codec.__file__, encoder_module.__file__):
            raise AlarmError

    given = [{"a": X, "b": Y}] * 3 + [{"b": X, "a": Y}] * 3 + [[X, ["text"] * 3]] * 3
    encoder, num_alarms = Encoder(), 0
    previous = signal.signal(signal.SIGALRM, raise_alarm)
    try:
        for i in range(6000):
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + i * 7919 % 60))
            try:
                for microbatch in given:
                    encoder.encode(microbatch, b"")
            except (AlarmError, TypeError):  # the pickler says of any error where it was
                num_alarms += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            microbatch = given[i % len(given)]
            assert_same(sent(encoder, microbatch), microbatch)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert num_alarms > 1000


def test_the_memory_that_a_copy_did_not_find_is_told_of(monkeypatch):
    encoder = Encoder()
    for _ in range(3):
        encoder.encode([X, np.ones(3)], b"")

    def fails(array):
        raise MemoryError("no memory for a copy")

    for module in (codec, encoder_module):
        monkeypatch.setattr(module, "plain_array", fails)
    encoder._known = (encoder._known[0], gatherer_of(encoder._known[0], 2))
    with pytest.raises(TypeError, match=r"microbatch\[1\].*no memory for a copy"):
        encoder.encode([X, np.ones(3)], b"")


def test_where_recursion_ends_there_is_an_error_or_none():
    encoder = Encoder()
    for _ in range(3):
        encoder.encode({"".join(["a", "b"]): [X, "".join(["c", "d"])]}, b"")

    def deep(depth):
        if depth:
            return deep(depth - 1)
        return sent(encoder, {"".join(["a", "b"]): [X, "".join(["c", "d"])]})

    limit = sys.getrecursionlimit()
    for depth in range(limit - 200, limit):
        with suppress(RecursionError, TypeError):
            assert_same(deep(depth), {"ab": [X, "cd"]})


def test_a_tensor_without_its_storage_is_an_error_not_the_end():
    tensor = torch.ones(4)
    tensor.untyped_storage().resize_(0)
    ring = _core.Ring.create(2, 1 << 20)
    producer = _core.Producer(ring, 1 << 22)
    consumer = _core.Consumer(_core.Ring.attach(ring.fd, ring.wake_fds), 1, 1)
    consumer.begin_pass(0)
    pass_ = producer.await_pass(0)
    with pytest.raises(ValueError, match="leaf 1 has no memory"):
        producer.publish(pass_, 0, *Encoder().encode([X, tensor], b""))


def test_nothing_is_kept_of_a_microbatch():
    encoder = Encoder()
    for _ in range(4):
        array = np.ones(3)
        before = [array, "text"]
        assert len(encoder.encode(before, b"")[1]) == 1
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
        encoder.encode([X, Y], b"")
    with pytest.raises(TypeError, match=r"microbatch\[1\]"):
        encoder.encode([X, lambda: None], b"")
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
