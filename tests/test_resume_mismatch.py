"""A state that does not fit is refused, and says what does not fit and where."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from fkat.data import ShmDataLoader
from fkat.data.errors import ResumeMismatchError, StateError


def make(length=40, batch_size=2, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    options = {"shuffle": True, "generator": generator, **options}
    return DataLoader(range(length), batch_size=batch_size, **options)


def new(factory=make, seed=3, **options):
    return ShmDataLoader(seed, factory, 2, **{"multiprocessing": False, **options})


def state_after(count, **options):
    loader = new(**options)
    for _ in range(count):
        next(loader)
    return loader.state_dict()


def ids(microbatches):
    return [microbatch.tolist() for microbatch in microbatches]


CHANGES = {
    "length": (partial(make, length=42), r"len\(dataset\) was 40, is 42"),
    "batch size": (partial(make, batch_size=4), "batch_size was 2, is 4"),
    "drop_last": (partial(make, drop_last=True), "drop_last was False, is True"),
    "sampler": (
        partial(make, shuffle=None, sampler=SequentialSampler(range(40))),
        "sampler was 'RandomSampler', is 'SequentialSampler'",
    ),
    "batch sampler": (
        lambda: DataLoader(range(40), batch_sampler=[[0, 1]] * 20),
        "batch_size was 2, is not there",
    ),
    "order": (partial(make, seed=1), "microbatches 0 to 0 .* of epoch 0 are others"),
    "kind of dataset": (
        lambda: DataLoader(list(range(40)), batch_size=2, shuffle=True),
        "dataset was 'range', is 'list'",
    ),
    "no DataLoader at all": (lambda: [[0, 1]] * 20, "loader was 'DataLoader', is 'list'"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_changed_data_is_an_error_that_says_what_differs(change, multiprocessing):
    factory, message = CHANGES[change]
    loader = new(factory, multiprocessing=multiprocessing)
    loader.load_state_dict(state_after(5))
    with pytest.raises(ResumeMismatchError, match=message):
        next(loader)
    loader.teardown()


@pytest.mark.filterwarnings("ignore:.*read again")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_without_strictness_it_is_a_warning(change, multiprocessing):
    factory, message = CHANGES[change]
    loader = new(factory, multiprocessing=multiprocessing)
    loader.load_state_dict(state_after(5), strict=False)
    with pytest.warns(UserWarning, match=message):
        next(loader)
    assert loader.state_dict()["microbatch"] == 6
    loader.teardown()


class Differs(SequentialSampler):
    """Another index at one place."""

    def __init__(self, at):
        super().__init__(range(40))
        self.at = at

    def __iter__(self):
        return iter([99 if i == self.at else i for i in range(40)])


def in_batches(at):
    return DataLoader(range(100), batch_sampler=BatchSampler(Differs(at), 1, drop_last=False))


@pytest.mark.parametrize(
    ("at", "first", "last"), [(0, 0, 0), (1, 1, 1), (2, 2, 3), (6, 4, 7), (14, 8, 15), (29, 16, 29)]
)
def test_the_error_says_where_the_first_difference_is(at, first, last):
    loader = new(partial(in_batches, at))
    loader.load_state_dict(state_after(30, factory=partial(in_batches, -1)))
    with pytest.raises(ResumeMismatchError, match=f"microbatches {first} to {last} "):
        next(loader)


def test_what_was_not_delivered_is_not_compared():
    loader = new(partial(in_batches, 30))
    loader.load_state_dict(state_after(30, factory=partial(in_batches, -1)))
    assert next(loader).tolist() == [99]


def test_an_epoch_that_has_become_shorter_is_an_error():
    loader = new(lambda: DataLoader(range(20), batch_size=2))
    state = state_after(15, factory=lambda: DataLoader(range(40), batch_size=2))
    loader.load_state_dict(state)
    with pytest.raises(ResumeMismatchError, match="has 10 microbatches, 15 were finished"):
        next(loader)


@pytest.mark.filterwarnings("ignore:.*read again")
def test_a_stream_that_has_become_shorter_is_an_error():
    loader = new(lambda: iter(range(3)))
    loader.load_state_dict(state_after(5, factory=lambda: iter(range(9))))
    with pytest.raises(ResumeMismatchError, match="has 3 microbatches, 5 were finished"):
        next(loader)


def test_after_the_error_the_loader_is_still_of_use():
    loader = new(partial(make, batch_size=4))
    loader.load_state_dict(state_after(5))
    with pytest.raises(ResumeMismatchError):
        next(loader)
    loader.load_state_dict(new(partial(make, batch_size=4)).state_dict())
    assert len(list(loader)) == 10


def test_another_seed_is_an_error_at_once():
    loader = new(seed=4)
    with pytest.raises(ResumeMismatchError, match="seed was 3, is 4"):
        loader.load_state_dict(state_after(5))
    assert loader.state_dict()["microbatch"] == 0
    with pytest.warns(UserWarning, match="seed was 3, is 4"):
        loader.load_state_dict(state_after(5), strict=False)
    assert loader.state_dict()["microbatch"] == 5


def test_another_rank_of_the_same_run_has_other_indices_and_may_resume_all_the_same():
    def factory(rank):
        sampler = torch.utils.data.DistributedSampler(range(40), 2, rank, shuffle=False)
        return DataLoader(range(40), batch_size=2, sampler=sampler)

    state = state_after(3, factory=partial(factory, 0))
    loader = new(partial(factory, 1), dp_rank=1)
    loader.load_state_dict(state)
    assert next(loader).tolist() == [13, 15]


@pytest.mark.parametrize(("was", "now"), [(None, 2), (2, None)])
def test_whether_the_loader_deals_among_ranks_cannot_change(was, now):
    loader = new(dp_size=now)
    with pytest.raises(StateError, match=f"written with dp_size={was}, .* has dp_size={now}"):
        loader.load_state_dict(state_after(3, dp_size=was))


def changed(**fields):
    return {**state_after(3), **fields}


def without(key):
    state = state_after(3)
    del state[key]
    return state


BAD = {
    "no dict": ([1], "is a dict, got a list"),
    "foreign": ({"a": 1}, "'version' is None"),
    "newer": (changed(version=99), "version 99; .* reads versions up to 2: upgrade"),
    "version of the wrong type": (changed(version=True), "'version' is True"),
    "of another class": (
        {**changed(), "class": "DictDataLoader"},
        "is a state of 'DictDataLoader'",
    ),
    "extra key": (changed(more=1, most=2), "should not: 'more', 'most'"),
    **{f"no {key}": (without(key), f"lacks '{key}'") for key in ("seed", "epoch", "fingerprint")},
    "text for a number": (changed(epoch="1"), "'epoch' .* of type int, it is '1'"),
    "truth for a number": (changed(microbatch=True), "'microbatch' .* of type int, it is True"),
    "negative": (changed(microbatch=-1), "'microbatch' .* is -1"),
    "no trail": (
        changed(fingerprint={"source": [], "trail": 3, "part": [0, 1]}),
        "'trail' .* of type list",
    ),
    "damaged trail": (
        changed(fingerprint={"source": [], "trail": [[1, "xyz"]], "part": [0, 1]}),
        r"no list of \[offset, digest",
    ),
    "trail beyond all positions": (
        changed(fingerprint={"source": [], "trail": [[2**63 - 1, 0]], "part": [0, 1]}),
        r"no list of \[offset, digest",
    ),
    "damaged source": (
        changed(fingerprint={"source": [1], "trail": [], "part": [0, 1]}),
        "fingerprint in this state",
    ),
    "fingerprint without its keys": (changed(fingerprint={}), "lacks 'source', 'trail', 'part'"),
    "damaged state of the inner loader": (changed(inner=b"abc"), "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("strict", [True, False])
def test_a_bad_state_is_refused_and_changes_nothing(case, strict):
    state, message = BAD[case]
    loader = new()
    next(loader)
    before = loader.state_dict()
    with pytest.raises(StateError, match=message):
        loader.load_state_dict(state, strict=strict)
    assert loader.state_dict() == before
    assert ids(loader._feed and [next(loader)]) == ids(list(make())[1:2])


def test_the_data_it_was_saved_with_is_named_in_plain_words():
    loader = new(partial(make, batch_size=4, length=44))
    loader.load_state_dict(state_after(5))
    with pytest.raises(ResumeMismatchError) as caught:
        next(loader)
    text = str(caught.value)
    assert "epoch 0, microbatch 5" in text
    assert re.search(r"load_state_dict\(state, strict=False\)", text)
