"""Any nesting of tensors, arrays, scalars and containers survives the codec and the ring."""

from __future__ import annotations

import gc
import sys
import weakref
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fkat.data import _core
from fkat.data._source.note import Delivered, Ends, Mark
from fkat.data._transport.codec import LeafPickler, decode, encode, from_dlpack, move
from fkat.data._transport.encoder import Encoder
from fkat.data._transport.record import pack, unpacker
from tests.equality import assert_same

Pair = namedtuple("Pair", ["left", "right"])

DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32),
    *(torch.float64, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
]

relaxed = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


class Sample:
    """A class of the user's own."""

    def __init__(self, payload):
        self.payload = payload


def random_bits(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    count = int(np.prod(shape, dtype=int))
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    raw = torch.randint(0, 256, (count * dtype.itemsize,), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).view(shape)


@st.composite
def tensors(draw):
    """Tensors of any dtype, permuted, sliced, expanded, conjugated, or with requires_grad."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = draw(st.sampled_from(DTYPES))
    tensor = random_bits(shape, dtype, draw(st.integers(0, 1000)))
    tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    for dim in range(len(shape)):
        start, step = draw(st.integers(0, 2)), draw(st.sampled_from([1, 1, 1, 2]))
        size = tensor.shape[dim]
        tensor = tensor[(slice(None),) * dim + (slice(min(start, size), None, step),)]
    if draw(st.integers(0, 5)) == 0:
        tensor = tensor.unsqueeze(0).expand(3, *tensor.shape)
    if dtype.is_complex and draw(st.booleans()):
        tensor = tensor.conj()
    if dtype in (torch.float32, torch.bfloat16) and draw(st.booleans()):
        tensor = tensor.detach().requires_grad_()
    return tensor


def arrays():
    """Arrays of any dtype that numpy has, native and big-endian, structured, strided."""
    texts = hnp.byte_string_dtypes() | hnp.unicode_string_dtypes()
    dtype = hnp.scalar_dtypes() | hnp.array_dtypes() | texts
    array = hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    views = (lambda a: a, lambda a: a.T, lambda a: a[::-1] if a.ndim else a, np.asfortranarray)
    return st.builds(lambda view, a: view(a), st.sampled_from(views), array)


def scalars():
    """What goes through pickle alone."""
    return st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(),
        st.binary(), hnp.scalar_dtypes().flatmap(hnp.from_dtype),
    )  # fmt: skip


@st.composite
def microbatches(draw):
    """Nested containers; a leaf may stand in several places."""
    pool = draw(st.lists(st.one_of(tensors(), arrays(), scalars()), min_size=1, max_size=6))

    def containers(inner):
        items = st.lists(inner, max_size=4)
        keyed = st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
        return st.one_of(
            items, items.map(tuple), keyed, keyed.map(OrderedDict), st.builds(Pair, inner, inner),
            st.builds(Sample, inner),
        )  # fmt: skip

    return draw(st.recursive(st.sampled_from(pool), containers, max_leaves=12))


def through_ring(microbatch, times=1):
    """Carry a microbatch through a real ring whose two ends are in this process, again and again.

    Its structure is then one that has come before.
    """
    ring = _core.Ring.create(4, 1 << 20)
    producer = _core.Producer(ring, 1 << 22)
    consumer = _core.Consumer(_core.Ring.attach(ring.fd, ring.wake_fds), 3, 3)
    consumer.begin_pass(0)
    pass_ = producer.await_pass(0)
    encoder, opener = Encoder(), unpacker()
    for position in range(times):
        delivered = Delivered(microbatch, Mark(Ends.NOTHING, 0, position + 1))
        assert producer.publish(pass_, position, *pack(delivered, encoder))
        (arrived, mark), _, _ = opener.open(consumer.acquire(60.0))
        assert mark == delivered.mark
        yield arrived


@relaxed
@given(microbatches())
def test_decode_undoes_encode(microbatch):
    assert_same(move(microbatch, torch.device("cpu")), microbatch)


@relaxed
@given(microbatches())
def test_a_ring_carries_any_microbatch_and_any_that_comes_again(microbatch):
    for arrived in through_ring(microbatch, times=4):
        assert_same(arrived, microbatch)


@relaxed
@given(tensors())
def test_a_ring_carries_any_tensor(tensor):
    assert_same(*through_ring(tensor), tensor)


@relaxed
@given(arrays())
def test_a_ring_carries_any_array(array):
    assert_same(*through_ring(array), array)


@relaxed
@given(microbatches())
def test_encoding_leaves_the_microbatch_as_it_was(microbatch):
    before = encode(microbatch)[0]
    assert encode(microbatch)[0] == before
    list(through_ring(microbatch))
    assert encode(microbatch)[0] == before


@relaxed
@given(st.lists(microbatches(), min_size=2, max_size=3))
def test_a_pickler_takes_one_after_another_as_it_would_the_first(several):
    pickler = LeafPickler()
    for microbatch in several:
        structure, leaves = pickler.dump(microbatch, b"")
        assert structure == encode(microbatch)[0]
        tensors = [leaf if isinstance(leaf, np.ndarray) else from_dlpack(leaf) for leaf in leaves]
        assert_same(decode(structure, tensors), microbatch)


def test_a_pickler_keeps_nothing_and_goes_on_after_what_cannot_be_pickled():
    pickler = LeafPickler()
    sample = Sample([torch.ones(3), "text"])
    gone = weakref.ref(sample)
    assert len(pickler.dump(sample, b"")[1]) == 1
    with pytest.raises(TypeError, match=r"microbatch\[1\]"):
        pickler.dump([torch.zeros(2), lambda: None, sample], b"")
    del sample
    assert gone() is None
    assert pickler.dump(torch.ones(1), b"")[0] == encode(torch.ones(1))[0]


def test_a_pickler_forgets_how_many_objects_there_were():
    pickler = LeafPickler()
    pickler.dump("small", b"")
    before = sys.getsizeof(pickler._pickler)  # with the table of what it has seen
    pickler.dump([(number,) for number in range(10_000)], b"")
    pickler.dump("small", b"")
    assert sys.getsizeof(pickler._pickler) == before


def test_encoding_once_leaves_no_garbage():
    gc.collect()
    gc.disable()
    try:
        encode({"rows": torch.ones(3)})
        assert gc.collect() == 0
    finally:
        gc.enable()
