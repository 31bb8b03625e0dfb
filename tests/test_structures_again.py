"""A structure that comes again and again is copied, not unpickled: with the same result."""

from __future__ import annotations

import copyreg
import gc
import itertools
import math

import pytest
import torch

from fkat.data import _core
from fkat.data._source.note import Delivered, Ends, Mark, Notice
from fkat.data._transport import codec, record
from fkat.data._transport.encoder import Encoder
from tests.equality import assert_same


class Unpickled:
    """Counts how often it was made by pickle."""

    count = 0

    def __setstate__(self, state):
        Unpickled.count += 1
        self.__dict__.update(state)


class Doubling:
    """Arrives as twice its tensor."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return doubled, (self.tensor,)


def doubled(tensor):
    return tensor + tensor


@pytest.fixture
def decodings(monkeypatch):
    """The structures that were left to pickle; how many."""
    done = []

    def decode(structure, leaves):
        done.append(structure)
        return codec.decode(structure, leaves)

    monkeypatch.setattr(record, "decode", decode)
    return done


def sent(*microbatches):
    """What an unpacker makes of one after another."""
    encoder, unpacker = Encoder(), record.unpacker()
    for i, microbatch in enumerate(microbatches):
        delivered = Delivered(microbatch, Mark(Ends.NOTHING, 0, i + 1, i, b"inner" * (i % 2), i))
        structure, capsules = record.pack(delivered, encoder)
        taken, mark = unpacker.unpack(structure, [codec.from_dlpack(each) for each in capsules])
        assert mark == delivered.mark
        assert (type(mark), type(mark.ends)) == (Mark, Ends)
        yield taken


def rows(i, size=2):
    return {"x": torch.full((size,), i), "names": ["a", ("b", 1, 2.5, None, True, ())]}


def test_only_the_first_two_are_unpickled(decodings):
    given = [rows(i, size=i + 1) for i in range(6)]
    for taken, microbatch in zip(sent(*given), given, strict=True):
        assert_same(taken, microbatch)
    assert len(decodings) == 1  # the second was unpickled without its leaves


def test_each_microbatch_has_containers_of_its_own():
    first, *others = sent(*(rows(i) for i in range(5)))
    for taken in others:
        assert taken is not first
        assert taken["names"] is not first["names"]
        taken["names"].append("more")
        taken["y"] = 0
    assert first["names"] == rows(0)["names"]


def test_a_collection_of_garbage_in_the_middle_may_come_back_to_the_unpacker():
    # Before Python 3.12 making a container collects, and a finalizer may call next().
    encoder, unpacker = Encoder(), record.unpacker()
    large, other = (
        record.pack(Delivered(microbatch, Mark(Ends.NOTHING, 0, 1)), encoder)[0]
        for microbatch in ([[[i], {i: [i]}] for i in range(500)], ["other"])
    )
    for _ in range(2):
        unpacker.unpack(large, [])
    comes_back = []

    class Finalized:
        def __del__(self):
            comes_back.extend(unpacker.unpack(other, [])[0] for _ in range(3))

    gc.collect()
    before = gc.get_threshold()
    for _ in range(20):
        garbage = Finalized()
        garbage.itself = garbage
        del garbage
        gc.set_threshold(50, 1, 1)
        try:
            taken, _ = unpacker.unpack(large, [])
        finally:
            gc.set_threshold(*before)
        gc.collect()
        assert taken == [[[i], {i: [i]}] for i in range(500)]
    assert comes_back == [["other"]] * 60


def test_a_signal_handler_in_the_middle_of_learning_may_come_back_to_the_unpacker(monkeypatch):
    def decode_plain(structure, num_leaves):
        if not comes_back:
            comes_back.append(True)  # what follows calls this again
            comes_back.extend(unpacker.unpack(other, [])[0] for _ in range(3))
        return codec.decode_plain(structure, num_leaves)

    comes_back = []
    monkeypatch.setattr(record, "decode_plain", decode_plain)
    encoder, unpacker = Encoder(), record.unpacker()
    one, other = (
        record.pack(Delivered(microbatch, Mark(Ends.NOTHING, 0, 1)), encoder)[0]
        for microbatch in (["one"], ["two"])
    )
    taken = [unpacker.unpack(each, [])[0] for each in (one, one, one, other, other, other, one)]
    assert taken == [["one"]] * 3 + [["two"]] * 3 + [["one"]]
    assert comes_back == [True, *[["two"]] * 3]


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_bytes_are_those_of_one_microbatch_alone():
    for taken in sent(*([{"raw": b"abc"}] * 5)):
        torch.frombuffer(taken["raw"], dtype=torch.uint8).add_(1)
        assert taken["raw"] == b"bcd"


def test_no_number_is_the_same_object_as_that_of_the_last_microbatch():
    several = list(sent(*([[math.nan]] * 4)))
    assert all(one != other for one, other in itertools.combinations(several, 2))


def test_a_very_large_structure_comes_through():
    large = {"names": [f"{i:050}" for i in range(3_000)], "x": torch.ones(2)}
    for taken in sent(large, large, large):
        assert_same(taken, large)


def test_a_tensor_in_two_places_stays_one_object():
    x = torch.ones(2)
    for taken in sent(*([[x, {"again": x}]] * 4)):
        assert taken[0] is taken[1]["again"]


def test_a_container_in_two_places_stays_one_object(decodings):
    shared = [torch.ones(2)]
    for taken in sent(*([(shared, shared)] * 4)):
        assert taken[0] is taken[1]
    assert len(decodings) == 4


def test_one_that_holds_itself_comes_through():
    loop = []
    loop.append(loop)
    for taken in sent(loop, loop, loop):
        assert taken[0] is taken


def test_what_copyreg_knows_by_number_is_called_with_leaves_only():
    copyreg.add_extension(__name__, "doubled", 250)
    try:
        for taken in sent(*([Doubling(torch.ones(2))] * 4)):
            assert taken.tolist() == [2.0, 2.0]
    finally:
        copyreg.remove_extension(__name__, "doubled", 250)


def test_a_class_of_the_users_is_made_once_for_each_microbatch():
    Unpickled.count = 0
    given = Unpickled()
    given.x = torch.ones(2)
    assert [taken.x.tolist() for taken in sent(*([given] * 5))] == [[1.0, 1.0]] * 5
    assert Unpickled.count == 5


@pytest.mark.parametrize(
    "microbatch",
    [{1, 2}, bytearray(b"abc"), frozenset({1}), {("key", 1): 2}, 1j, [torch.ones(1).to_sparse()]],
    ids=lambda microbatch: type(microbatch).__name__,
)
def test_what_is_no_plain_structure_comes_through(microbatch):
    for taken in sent(*([microbatch] * 4)):
        assert_same(taken, microbatch)
        assert taken is not microbatch


def test_what_is_nested_deeply_comes_through():
    nested = [torch.ones(1)]
    for _ in range(150):
        nested = [nested]
    for taken in sent(nested, nested, nested):
        for _ in range(150):
            (taken,) = taken
        assert_same(taken, [torch.ones(1)])


def test_structures_that_take_turns_are_told_apart():
    given = [rows(0), [torch.ones(1)], rows(1), rows(2), rows(3), [torch.ones(1)]]
    for taken, microbatch in zip(sent(*given), given, strict=True):
        assert_same(taken, microbatch)


def test_a_template_is_not_filled_with_another_number_of_leaves():
    encoder, unpacker = Encoder(), record.unpacker()
    structure, _ = record.pack(Delivered(rows(0), Mark(Ends.NOTHING, 0, 1)), encoder)
    for _ in range(3):
        unpacker.unpack(structure, [torch.ones(1)])
    with pytest.raises(IndexError):
        unpacker.unpack(structure, [])


def test_structures_that_repeat_by_chance_are_learnt_seldom(monkeypatch):
    learnt = []

    def decode_plain(structure, num_leaves):
        learnt.append(structure)
        return codec.decode_plain(structure, num_leaves)

    monkeypatch.setattr(record, "decode_plain", decode_plain)
    for i, taken in enumerate(sent(*([i // 2] for i in range(1000)))):
        assert taken == [i // 2]
    assert len(learnt) == 1


def test_an_event_between_them_changes_nothing():
    encoder, unpacker = Encoder(), record.unpacker()
    structure, _ = record.pack(Delivered([1], Mark(Ends.EPOCH, 2, 3)), encoder)
    notice, _ = record.pack(Notice("text"), encoder)
    for _ in range(3):
        assert unpacker.unpack(structure, []) == ([1], Mark(Ends.EPOCH, 2, 3))
        assert unpacker.unpack(notice, []) == (Notice("text"), None)
    assert [record.is_event(each) for each in (structure, notice)] == [False, True]


@pytest.mark.parametrize("nbytes", [0, 31, 33])
def test_a_mark_that_is_cut_short_is_an_error(nbytes):
    mark = _core.pack_mark(0, 0, 1, 2, b"inner", 3)
    with pytest.raises(_core.CorruptSegmentError):
        record.unpacker().unpack(mark[:nbytes], [])


def test_a_mark_that_ends_nothing_known_is_an_error():
    with pytest.raises(_core.CorruptSegmentError, match="no sense"):
        record.unpacker().unpack(_core.pack_mark(9, 0, 1, 2, b"", 3), [])
