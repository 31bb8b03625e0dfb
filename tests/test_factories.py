"""`DataLoaderFactory` of `fkat.data.shm` and of `fkat.data.sharded`: loaders from generators."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from fkat.data import ShmDataLoader
from fkat.data import _factory as shm
from fkat.data._shards import factory as sharded


class Letters(Dataset):
    """Map-style: the letters of a shard, or of a list of them."""

    def __init__(self, shard):
        self.letters = "".join(shard)

    def __len__(self):
        return len(self.letters)

    def __getitem__(self, index):
        return self.letters[index]


class Stream(IterableDataset):
    """The same, iterable."""

    def __init__(self, shard):
        self.letters = "".join(shard)

    def __iter__(self):
        return iter(self.letters)


class Reversed:
    """A sampler, or (given a sampler) another, from the last to the first."""

    def __init__(self, source):
        self.indices = range(len(source)) if isinstance(source, Dataset) else list(source)

    def __iter__(self):
        return reversed(self.indices)

    def __len__(self):
        return len(self.indices)


def in_pairs(source):
    """A batch sampler over a dataset or over a sampler."""
    sampler = SequentialSampler(source) if isinstance(source, Dataset) else source
    return BatchSampler(sampler, batch_size=2, drop_last=False)


def recorded(dataset, **keywords):
    """A dataloader generator that says what it was called with."""
    return [dataset, keywords]


def of_shm(dataset_class, *args, **options):
    factory = shm.DataLoaderFactory(partial(dataset_class, "abcde"), *args, **options)
    return factory()


def of_shard(dataset_class, *args, **options):
    return sharded.DataLoaderFactory(dataset_class, *args, **options)("abcde")


each_build = pytest.mark.parametrize("build", [of_shm, of_shard])


def letters(loader):
    return ["".join(batch) for batch in loader]


@each_build
class TestAMapStyleDataset:
    """It needs a sampler or a batch sampler."""

    @pytest.mark.parametrize(
        ("generators", "expected"),
        [
            ({"sampler_generator": SequentialSampler}, ["a", "b", "c", "d", "e"]),
            ({"sampler_generator": Reversed}, ["e", "d", "c", "b", "a"]),
            ({"batch_sampler_generator": in_pairs}, ["ab", "cd", "e"]),
            (
                {"sampler_generator": Reversed, "batch_sampler_generator": in_pairs},
                ["ed", "cb", "a"],
            ),
        ],
        ids=["a sampler", "a sampler of one's own", "a batch sampler", "both"],
    )
    def test_is_read_in_the_order_of(self, build, generators, expected):
        loader = build(Letters, **generators)
        assert type(loader) is DataLoader
        assert letters(loader) == expected
        assert len(loader) == len(expected)

    def test_without_either_is_an_error(self, build):
        with pytest.raises(
            ValueError, match="Letters is a map-style dataset: it needs a sampler_g"
        ):
            build(Letters)

    def test_is_loaded_by_the_users_own_loader(self, build):
        loader = build(Letters, SequentialSampler, None, recorded)
        dataset, keywords = loader
        sampler = keywords.pop("sampler")
        assert isinstance(dataset, Letters)
        assert isinstance(sampler, SequentialSampler)
        assert sampler.data_source is dataset
        assert keywords == {"batch_size": 1, "shuffle": False, "batch_sampler": None}

    def test_and_its_batch_sampler_reach_the_users_own_loader(self, build):
        _, keywords = build(Letters, SequentialSampler, in_pairs, recorded)
        batch_sampler = keywords.pop("batch_sampler")
        assert isinstance(batch_sampler.sampler, SequentialSampler)
        assert keywords == {"batch_size": 1, "shuffle": False, "sampler": None}


@each_build
class TestAnIterableDataset:
    """It has its own order."""

    def test_is_read_in_it(self, build):
        loader = build(Stream)
        assert type(loader) is DataLoader
        assert letters(loader) == ["a", "b", "c", "d", "e"]

    @pytest.mark.parametrize("name", ["sampler_generator", "batch_sampler_generator"])
    def test_takes_no_sampler(self, build, name):
        with pytest.raises(ValueError, match=r"Stream is an iterable dataset.*leave out sampler_g"):
            build(Stream, **{name: SequentialSampler})

    def test_that_is_no_iterabledataset_reaches_the_users_own_loader(self, build):
        dataset, keywords = build(iter, None, None, recorded)
        assert list(dataset) == list("abcde")
        assert keywords == {
            "batch_size": 1,
            "shuffle": False,
            "sampler": None,
            "batch_sampler": None,
        }


class TestTheBatchSize:
    """Said once: in `batch_size`, in a `partial`, or by the batch sampler."""

    @pytest.mark.parametrize("dataset_class", [Letters, Stream])
    @pytest.mark.parametrize(
        "options",
        [{"batch_size": 2}, {"dataloader_generator": partial(DataLoader, batch_size=2)}],
        ids=["of the factory", "of a partial"],
    )
    def test_counts_for_any_dataset(self, dataset_class, options):
        sampler = SequentialSampler if dataset_class is Letters else None
        assert letters(of_shard(dataset_class, sampler, **options)) == ["ab", "cd", "e"]

    def test_of_a_partial_counts_in_shm(self):
        loader = of_shm(Letters, SequentialSampler, None, partial(DataLoader, batch_size=3))
        assert letters(loader) == ["abc", "de"]

    def test_may_be_none(self):
        assert list(of_shard(Letters, SequentialSampler, batch_size=None)) == list("abcde")
        loader = of_shm(Stream, dataloader_generator=partial(DataLoader, batch_size=None))
        assert list(loader) == list("abcde")

    def test_given_twice_is_an_error(self):
        new = partial(sharded.DataLoaderFactory, Letters, SequentialSampler)
        bound = partial(DataLoader, batch_size=4)
        with pytest.raises(ValueError, match=r"batch_size is 2, but .* bound batch_size=4"):
            new(None, bound, batch_size=2)
        for options in ({"batch_size": 2}, {"dataloader_generator": bound}):
            with pytest.raises(ValueError, match="the batch sampler decides how large batches are"):
                new(in_pairs, **options)

    @pytest.mark.parametrize(
        ("batch_size", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError)]
    )
    def test_that_is_wrong_is_refused_by_name(self, batch_size, error):
        with pytest.raises(error, match="batch_size must be"):
            sharded.DataLoaderFactory(Letters, batch_size=batch_size)


@pytest.mark.parametrize("shard", ["abc", ["a", "bc"]], ids=["a str", "a list of str"])
def test_the_dataset_is_made_of_the_shard(shard):
    factory = sharded.DataLoaderFactory(Letters, SequentialSampler, batch_size=2)
    assert letters(factory(shard)) == ["ab", "c"]


@pytest.mark.parametrize("factory_class", [shm.DataLoaderFactory, sharded.DataLoaderFactory])
@pytest.mark.parametrize(
    "name",
    [
        "dataset_generator",
        "sampler_generator",
        "batch_sampler_generator",
        "dataloader_generator",
    ],
)
def test_a_generator_that_cannot_be_called_is_refused_by_name(factory_class, name):
    with pytest.raises(TypeError, match=f"^{name} must be callable, got 3 of type int"):
        factory_class(**{"dataset_generator": Letters, name: 3})


def test_nothing_is_built_before_the_call():
    def fail(*_):
        raise AssertionError("a constructor must not build anything")

    shm.DataLoaderFactory(fail, fail, fail, fail)
    sharded.DataLoaderFactory(fail, fail, fail, fail)


def test_each_call_builds_anew():
    factory = shm.DataLoaderFactory(partial(Letters, "abc"), SequentialSampler)
    first, second = factory(), factory()
    assert first is not second
    assert first.dataset is not second.dataset


def test_factories_can_be_pickled():
    for factory, arguments in [
        (shm.DataLoaderFactory(partial(Letters, "abc"), SequentialSampler, in_pairs), []),
        (sharded.DataLoaderFactory(Letters, SequentialSampler, batch_size=2), ["abc"]),
    ]:
        assert letters(pickle.loads(pickle.dumps(factory))(*arguments)) == ["ab", "c"]


def test_a_shm_loader_delivers_what_the_factory_builds():
    factory = shm.DataLoaderFactory(
        partial(Letters, "abcdefgh"),
        RandomSampler,
        partial(BatchSampler, batch_size=3, drop_last=True),
    )
    loader = ShmDataLoader(0, factory)
    epochs = [letters(loader) for _ in range(2)]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[3, 3]] * 2
    assert epochs[0] != epochs[1]
    assert letters(ShmDataLoader(0, factory, multiprocessing=False)) == epochs[0]
