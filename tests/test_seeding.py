"""Random numbers depend on where a microbatch stands, and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fkat.data import ShmDataLoader
from fkat.data._seeding import derive_seed

# What checkpoints and papers rely on: these numbers never change.
FROZEN = {
    (0, 0, 0, 0): 5809880761037817570,
    (1, 0, 0, 0): 1613466296301450527,
    (0, 1, 0, 0): 5207352734819769472,
    (0, 0, 1, 0): 5950159816103605179,
    (0, 0, 0, 1): 1350756519748367821,
    (0, 0, -1, 0): 7111432183211134983,
    (-1, 0, 0, 0): 8911339968191045075,
    (2**64 + 5, 3, 10, 10**12): 9115741315669297949,
}


def draw():
    """One number of each global generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))


class Draws(Dataset):
    """Random augmentation: what a sample is depends on the global generators."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index, draw()


class DrawsStream(IterableDataset):
    """The same from an iterable dataset."""

    def __iter__(self):
        for index in range(8):
            yield index, draw()


def one_by_one():
    return DataLoader(Draws(), batch_size=None)


def streamed():
    return DataLoader(DrawsStream(), batch_size=None)


def plain():
    for index in range(8):
        yield index, draw()


def drawn_by_factory():
    return [draw()]


FACTORIES = [one_by_one, streamed, plain]


def epochs(factory, *, seed=5, prefetches=2, count=2, **options):
    loader = ShmDataLoader(seed, factory, prefetches, **options)
    try:
        return [[microbatch for microbatch in loader] for _ in range(count)]  # noqa: C416
    finally:
        loader.teardown()


@pytest.mark.parametrize(("place", "value"), FROZEN.items(), ids=str)
def test_derived_seeds_are_frozen(place, value):
    assert derive_seed(*place) == value


def test_derived_seeds_fit_every_generator():
    seeds = [derive_seed(seed, 0, 0, 0) for seed in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("prefetches", [0, 1, 3, -1])
def test_prefetch_depth_changes_no_random_number(factory, prefetches):
    assert epochs(factory, prefetches=prefetches) == epochs(factory, multiprocessing=False)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_start_method_changes_no_random_number(method):
    actual = epochs(one_by_one, multiprocessing_context=method)
    assert actual == epochs(one_by_one, multiprocessing=False)


def test_state_of_the_trainer_changes_no_random_number():
    random.seed(1)
    first = epochs(one_by_one)
    torch.manual_seed(2)
    np.random.seed(3)
    assert epochs(one_by_one) == first


@pytest.mark.parametrize("factory", FACTORIES)
def test_microbatches_draw_different_numbers(factory):
    numbers = [tuple(drawn) for epoch in epochs(factory, count=3) for _, drawn in epoch]
    assert len(numbers) == 24
    for of_one_generator in zip(*numbers, strict=True):
        assert len(set(of_one_generator)) == 24


@pytest.mark.parametrize("factory", FACTORIES)
def test_an_epoch_left_early_does_not_shift_the_numbers(factory):
    loader = ShmDataLoader(5, factory, 2)
    for _ in range(3):
        next(loader)
    assert [list(loader)] == epochs(factory)[1:]


def test_dp_ranks_draw_different_numbers():
    numbers = {str(epochs(one_by_one, dp_rank=rank)) for rank in range(3)}
    assert len(numbers) == 3


def test_seeds_give_different_numbers():
    seeds = (0, 1, -1, 2**64 - 2, 2**70 + 5)
    numbers = {str(epochs(one_by_one, seed=seed)) for seed in seeds}
    assert len(numbers) == 5


def test_loaders_of_one_dp_rank_draw_the_same_numbers():
    assert epochs(one_by_one, dp_rank=2) == epochs(one_by_one, dp_rank=2)


@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_the_factory_is_seeded(multiprocessing):
    random.seed()
    first = epochs(drawn_by_factory, multiprocessing=multiprocessing)
    random.seed()
    assert epochs(drawn_by_factory) == first


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_random_numbers_of_the_trainer_are_its_own(factory, multiprocessing):
    def trainer(loader):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        numbers = [draw()]
        for _ in loader:
            numbers.append(draw())
        return numbers

    loader = ShmDataLoader(0, factory, multiprocessing=multiprocessing)
    assert trainer(loader) == trainer(range(8))


def test_asking_for_the_length_in_process_draws_nothing_from_the_trainer():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert len(ShmDataLoader(0, one_by_one, multiprocessing=False)) == 8
    assert torch.equal(torch.rand(3), expected)
