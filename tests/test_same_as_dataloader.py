"""The loader yields what the DataLoader of the factory yields, in its order."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from fkat.data import ShmDataLoader
from fkat.data._seeding import Seeder
from tests.equality import assert_same

SEED = 1234
EPOCHS = 3

# To compare whole epochs, these tests keep them.
pytestmark = pytest.mark.filterwarnings("ignore:more than 8 microbatches")


class Squares(Dataset):
    """A map-style dataset of dicts."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        return {"index": index, "square": torch.tensor(index**2), "name": str(index)}


class ManyAtOnce(Squares):
    """A dataset that is asked for a whole batch."""

    def __getitems__(self, indices):
        return [{"index": i, "batch": tuple(indices)} for i in indices]


class Stream(IterableDataset):
    """An iterable dataset, dealt to workers as the documentation of torch advises."""

    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(torch.arange(23)[first::step])


class EpochDataset(Squares):
    """A dataset that is told the epoch."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        return self.epoch, index


class Backwards(Sampler):
    """A sampler of the user's own."""

    def __iter__(self):
        return iter(range(22, -1, -1))

    def __len__(self):
        return 23


class UnevenBatches(Sampler):
    """A batch sampler of the user's own."""

    def __iter__(self):
        yield from ([0], [5, 1, 9], [], [22, 2])


def as_pair(samples):
    return len(samples), torch.stack([sample["square"] for sample in samples])


def seeded():
    return torch.Generator().manual_seed(7)


def sequential():
    return DataLoader(Squares(), batch_size=4)


def drop_last():
    return DataLoader(Squares(), batch_size=4, drop_last=True)


def shuffle():
    return DataLoader(Squares(), batch_size=4, shuffle=True)


def shuffle_with_generator():
    return DataLoader(Squares(), batch_size=4, shuffle=True, generator=seeded())


def shuffle_without_batches():
    return DataLoader(Squares(), batch_size=None, shuffle=True)


def without_batches():
    return DataLoader(Squares(), batch_size=None)


def own_sampler():
    return DataLoader(Squares(), batch_size=3, sampler=Backwards())


def subset_sampler():
    return DataLoader(Squares(), batch_size=3, sampler=SubsetRandomSampler(range(5, 15)))


def weighted_sampler():
    weights = torch.linspace(0.1, 1, 23)
    return DataLoader(Squares(), batch_size=5, sampler=WeightedRandomSampler(weights, 40))


def weighted_sampler_with_generator():
    sampler = WeightedRandomSampler([0.2] * 23, 40, generator=seeded())
    return DataLoader(Squares(), batch_size=5, sampler=sampler, generator=seeded())


def batch_sampler():
    sampler = BatchSampler(SequentialSampler(range(23)), batch_size=6, drop_last=False)
    return DataLoader(Squares(), batch_sampler=sampler)


def own_batch_sampler():
    return DataLoader(ManyAtOnce(), batch_sampler=UnevenBatches(), collate_fn=list)


def list_as_batch_sampler():
    return DataLoader(Squares(), batch_sampler=[[1, 2], [3], [2, 1]])


def batch_sampler_as_sampler():
    sampler = BatchSampler(Backwards(), batch_size=4, drop_last=True)
    dataset = TensorDataset(torch.arange(23))
    return DataLoader(dataset, batch_size=None, sampler=sampler)


def getitems():
    return DataLoader(ManyAtOnce(), batch_size=4, shuffle=True, collate_fn=list)


def collate():
    return DataLoader(Squares(), batch_size=4, collate_fn=as_pair)


def distributed():
    dataset = Squares()
    return DataLoader(dataset, batch_size=3, sampler=DistributedSampler(dataset, 2, 1, seed=3))


def dataset_with_epoch():
    return DataLoader(EpochDataset(), batch_size=4)


def stream():
    return DataLoader(Stream(), batch_size=4)


def stream_without_batches():
    return DataLoader(Stream(), batch_size=None)


def workers():
    return DataLoader(Squares(), batch_size=4, shuffle=True, num_workers=2)


def persistent_workers():
    return DataLoader(Squares(), batch_size=4, num_workers=2, persistent_workers=True)


def stream_from_workers():
    return DataLoader(Stream(), batch_size=4, num_workers=2)


def pinned():
    return DataLoader(Squares(), batch_size=4, pin_memory=True)


def empty():
    return DataLoader([], batch_size=4)


def plain_list():
    return [torch.ones(2), {"a": 1}, "x"]


def generator():
    yield from plain_list()


LOADERS = [
    *(sequential, drop_last, shuffle, shuffle_with_generator, shuffle_without_batches),
    *(without_batches, own_sampler, subset_sampler, weighted_sampler),
    *(weighted_sampler_with_generator, batch_sampler, own_batch_sampler, list_as_batch_sampler),
    *(batch_sampler_as_sampler, getitems, collate, distributed, dataset_with_epoch, stream),
    *(stream_without_batches, workers, persistent_workers, stream_from_workers),
    *(empty, plain_list),
]


def assert_same_epochs(actual, expected):
    """Microbatch by microbatch: what two of them share is not ours to keep."""
    for epoch, (left, right) in enumerate(zip(actual, expected, strict=True)):
        assert len(left) == len(right), f"epoch {epoch} has {len(left)} microbatches"
        for pair in zip(left, right, strict=True):
            assert_same(*pair)


def set_epoch(loader, epoch):
    """What a training loop does for a DistributedSampler."""
    for part in (getattr(loader, "sampler", None), getattr(loader, "dataset", None)):
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


def expected_epochs(factory, leave_first_after=None):
    """What a loop over the factory's own loader yields, seeded as the producer seeds."""
    seeder = Seeder(SEED, 0)
    with torch.random.fork_rng():
        seeder.seed_factory()
        loader = factory()
        for epoch in range(EPOCHS):
            seeder.seed_microbatch(epoch, 0)
            set_epoch(loader, epoch)
            yield list(loader if epoch else itertools.islice(loader, leave_first_after))


def epochs(factory, **options):
    """The same from our loader."""
    loader = ShmDataLoader(SEED, factory, 3, **options)
    try:
        for _ in range(EPOCHS):
            yield list(loader)
    finally:
        loader.teardown()


@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
@pytest.mark.parametrize("factory", LOADERS, ids=lambda factory: factory.__name__)
def test_same_microbatches_in_the_same_order(factory, multiprocessing):
    actual = list(epochs(factory, multiprocessing=multiprocessing))
    assert_same_epochs(actual, list(expected_epochs(factory)))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_a_stateful_dataloader_is_followed(multiprocessing):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def factory():
        return stateful.StatefulDataLoader(Squares(), batch_size=4, shuffle=True)

    actual = list(epochs(factory, multiprocessing=multiprocessing, multiprocessing_context="fork"))
    assert_same_epochs(actual, list(expected_epochs(factory)))


@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_a_generator_is_made_anew_for_each_epoch(multiprocessing):
    actual = list(epochs(generator, multiprocessing=multiprocessing))
    assert_same_epochs(actual, [plain_list() for _ in range(EPOCHS)])


@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_a_pinning_dataloader_is_not_pinned_in_the_producer(multiprocessing):
    actual = list(epochs(pinned, multiprocessing=multiprocessing))
    assert_same_epochs(actual, list(expected_epochs(sequential)))


@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
@pytest.mark.parametrize("factory", [shuffle, distributed, stream])
def test_the_epoch_after_one_left_early_is_that_of_the_dataloader(factory, multiprocessing):
    loader = ShmDataLoader(SEED, factory, 2, multiprocessing=multiprocessing)
    next(loader)
    next(loader)
    _, expected, _ = expected_epochs(factory, leave_first_after=2)
    assert_same_epochs([list(loader)], [expected])


@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_leaving_early_does_not_move_a_generator_of_the_user(multiprocessing):
    """Where a DataLoader's order would depend on how far it was read, ours depends on the epoch.

    A resumed run could not know how far the earlier epochs had been read.
    """
    loader = ShmDataLoader(SEED, shuffle_with_generator, 2, multiprocessing=multiprocessing)
    next(loader)
    next(loader)
    _, expected, _ = expected_epochs(shuffle_with_generator)
    assert_same_epochs([list(loader)], [expected])


def test_shuffled_epochs_differ():
    epochs = list(expected_epochs(shuffle))
    orders = {tuple(int(i) for m in epoch for i in m["index"]) for epoch in epochs}
    assert len(orders) == EPOCHS
