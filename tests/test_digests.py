"""The digest of indices is a number that states hold: it stays what it was, however it is made."""

from __future__ import annotations

import random
from array import array
from functools import partial, reduce
from itertools import accumulate, pairwise
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from fkat.data._seeding import Seeder
from fkat.data._source import indices
from fkat.data._source.digest import extend, extend_all
from fkat.data._source.fingerprint import Start, Trail
from fkat.data._source.indices import WHOLE, Indices

LENGTH = 40


def by_definition(digest, drawn):
    """As it was first written down."""
    if type(drawn) is list:
        try:
            return crc32(array("q", drawn), digest ^ len(drawn))
        except (TypeError, OverflowError):
            pass
    return crc32(repr(drawn).encode(), digest ^ 1)


POWERS = st.builds(pow, st.just(10), st.integers(0, 18))
INTEGERS = st.integers(0, 2**63 - 1) | st.integers(0, 1000) | POWERS
ANY_INTEGERS = st.integers(-(2**70), 2**70)
OTHERS = (
    st.booleans() | st.floats() | st.text() | st.tuples(INTEGERS) | st.integers(0, 99).map(np.int64)
)
DRAWN = {
    "integers": INTEGERS,
    "integers of any size and sign": INTEGERS | ANY_INTEGERS,
    "lists of integers": st.lists(INTEGERS | st.booleans() | st.integers(0, 99).map(np.int64)),
    "lists of anything": st.lists(INTEGERS | ANY_INTEGERS | OTHERS),
    "anything": INTEGERS | OTHERS | st.lists(INTEGERS),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_all_at_once_is_one_after_the_other(kind):
    @settings(deadline=None)
    @given(st.lists(DRAWN[kind]), st.integers(0, 2**32 - 1))
    def check(drawn, digest):
        expected = reduce(by_definition, drawn, digest)
        assert [reduce(extend, drawn, digest), extend_all(digest, drawn)] == [expected, expected]

    check()


@pytest.mark.parametrize(
    ("drawn", "digest"),
    [
        ([0, 1, 9, 10, 12345, 2**40], 1069064840),
        ([[0, 1, 2], [3], [], [-1, 2**40]], 3958118338),
        (["a", "b"], 931203310),
        ([1, [2], (3, 4), True, None], 1869956570),
    ],
    ids=["integers", "lists", "names", "mixed"],
)
def test_a_digest_in_a_state_is_good_for_ever(drawn, digest):
    assert [reduce(extend, drawn, 0), extend_all(0, drawn)] == [digest, digest]


class Own:
    """A sampler of the user's, which draws from a global generator each time."""

    def __init__(self, kind):
        self.kind = kind

    def __iter__(self):
        return (self.kind(random.randrange(LENGTH)) for _ in range(LENGTH))

    def __len__(self):
        return LENGTH


def data(**options):
    return DataLoader(range(LENGTH), **{"batch_size": None, **options})


LOADERS = {
    "sequential": data,
    "shuffled": partial(data, shuffle=True),
    "with replacement": lambda: data(sampler=RandomSampler(range(LENGTH), replacement=True)),
    "distributed": lambda: data(sampler=DistributedSampler(range(2 * LENGTH), 2, 1)),
    "subset": lambda: data(sampler=SubsetRandomSampler(range(LENGTH))),
    "subset of names": lambda: data(sampler=SubsetRandomSampler([f"n{i}" for i in range(LENGTH)])),
    "weighted": lambda: data(sampler=WeightedRandomSampler([1.0] * LENGTH, LENGTH)),
    "batches": partial(data, batch_size=3, shuffle=True),
    "batches, the last dropped": partial(data, batch_size=3, drop_last=True),
    "large batches": partial(data, batch_size=11),
    "batch sampler": lambda: data(
        batch_size=1, batch_sampler=BatchSampler(RandomSampler(range(LENGTH)), 3, drop_last=False)
    ),
    "own": lambda: data(sampler=Own(int)),
    "own, of numpy's integers": lambda: data(sampler=Own(np.int64)),
    "own, in batches": lambda: data(sampler=Own(int), batch_size=3),
    "own batches": lambda: data(batch_size=1, batch_sampler=Own(lambda i: [i, i + 1])),
}


def drawn_from(offset, make):
    """What is drawn from there on, and the digest before each and after it."""
    items = Indices(make(), Seeder(0, 0), 0, WHOLE, Start(Trail((), offset, 0)))
    assert items.differences == []
    return [(index, mark.before, mark.digest) for _, index, mark in items]


@pytest.mark.parametrize("name", LOADERS)
def test_wherever_a_sampler_is_begun_it_goes_on_the_same(name, monkeypatch):
    monkeypatch.setattr(indices, "_INDICES_AT_ONCE", 10)
    whole = drawn_from(0, LOADERS[name])
    digests = list(accumulate((index for index, _, _ in whole), by_definition, initial=0))
    assert [digests for _, *digests in whole] == [list(pair) for pair in pairwise(digests)]
    assert [drawn_from(offset, LOADERS[name]) for offset in range(len(whole))] == [
        whole[offset:] for offset in range(len(whole))
    ]


@pytest.mark.parametrize("offset", [0, 1, 7])
def test_a_sampler_of_ones_own_draws_under_the_seed_of_each_position(offset):
    expected = []
    for position in range(offset, LENGTH):
        Seeder(0, 0).seed_microbatch(0, position)
        expected.append(random.randrange(LENGTH))
    assert [index for index, *_ in drawn_from(offset, LOADERS["own"])] == expected


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("sequential", [10, 10, 10, 7]),
        ("batches", [3, 3, 3, 3]),
        ("batch sampler", [3, 3, 3, 3]),
        ("large batches", [1, 1, 1]),
        ("own", [1] * 37),
    ],
)
def test_few_indices_are_held_at_once_while_microbatches_are_skipped(name, strides, monkeypatch):
    monkeypatch.setattr(indices, "_INDICES_AT_ONCE", 10)
    found = []
    monkeypatch.setattr(indices, "extend_all", lambda _, drawn: found.append(len(drawn)) or 0)
    drawn_from({"sequential": 37, "own": 37, "large batches": 3}.get(name, 12), LOADERS[name])
    assert found == strides
