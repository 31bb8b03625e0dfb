"""A state that does not fit the shards, or is none, is refused; the loader stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.data import DataLoader

from fkat.data import ShmDataLoader
from fkat.data.errors import ResumeMismatchError, StateError
from fkat.data.sharded import DistributedDataParallelShardSampler, ShuffledShardSampler
from tests.shards import (
    READ_AGAIN,
    OpenShard,
    Samples,
    all_ids,
    epochs_of,
    ids_in,
    ids_of,
    indices_of,
    names_of,
    new_loader,
    plain,
    take,
)

SHARDS = names_of([6, 6, 6, 6])
IN_ORDER = OpenShard(shuffle=False)


def state_after(count, sampler=SHARDS, factory=None, **options):
    loader = new_loader(sampler, factory, **options)
    take(loader, count)
    return loader.state_dict()


def in_other_order(shard):
    generator = torch.Generator().manual_seed(9)
    return DataLoader(Samples(shard, None), 2, shuffle=True, generator=generator)


def shorter(shard):
    return DataLoader(Samples(shard.replace("-6", "-4"), None), 2, shuffle=True)


def shorter_in_order(shard):
    return DataLoader(Samples(shard.replace("-6", "-2"), None), 2)


CHANGED_SHARDS = {
    "another seed": ({"seed": 8}, "seed was 7, is 8"),
    "one more": ({"sampler": names_of([6] * 5)}, "number of shards was 4, is 5"),
    "one less": ({"sampler": names_of([6] * 3)}, "number of shards was 4, is 3"),
    "another name": ({"sampler": [*SHARDS[:3], "data/x-3-6"]}, "shards 2 to 3 was"),
    "another order": (
        {"sampler": [*SHARDS[:2], SHARDS[3], SHARDS[2]]},
        "shards of epoch 0, 2 to 3 was",
    ),
    "shuffled": ({"sampler": ShuffledShardSampler(SHARDS, seed=1)}, "shards of epoch 0, "),
}
CHANGED_LOADERS = {
    "batch size": (OpenShard(batch_size=3), "batch_size was 2, is 3"),
    "sampler": (IN_ORDER, "sampler was 'RandomSampler', is 'SequentialSampler'"),
    "kind of dataset": (OpenShard("stream"), "dataset was 'Samples', is 'Stream'"),
    "no DataLoader": (ids_of, "loader was 'DataLoader', is 'list'"),
    "order of samples": (
        in_other_order,
        r"in shard 'data/s-1-6'.*microbatches 0 to 0 .* are others",
    ),
    "a shorter shard": (shorter, r"in shard 'data/s-1-6'.*microbatches 0 to 0 .* are others"),
}


@pytest.mark.parametrize(("changed", "words"), CHANGED_SHARDS.values(), ids=CHANGED_SHARDS)
def test_other_shards_are_refused_when_the_state_is_loaded(changed, words):
    loader = new_loader(**{"sampler": SHARDS, **changed})
    with pytest.raises(ResumeMismatchError, match=words):
        loader.load_state_dict(state_after(5))
    assert loader.state_dict()["microbatch"] == 0
    assert len(epochs_of(loader, 1)[0]) > 0


@pytest.mark.filterwarnings("ignore:.*are others")
@pytest.mark.parametrize(("changed", "words"), CHANGED_SHARDS.values(), ids=CHANGED_SHARDS)
def test_other_shards_are_a_warning_without_strictness(changed, words):
    loader = new_loader(**{"sampler": SHARDS, **changed})
    with pytest.warns(UserWarning, match=words):
        loader.load_state_dict(state_after(4), strict=False)
    next(loader)
    assert loader.state_dict()["microbatch"] == 5


@pytest.mark.parametrize("prefetches", [0, 2])
@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
@pytest.mark.parametrize(("factory", "words"), CHANGED_LOADERS.values(), ids=CHANGED_LOADERS)
def test_other_data_in_a_shard_is_refused(factory, words, prefetches, multiprocessing):
    loader = new_loader(SHARDS, factory, prefetches, multiprocessing=multiprocessing)
    loader.load_state_dict(state_after(5))
    with pytest.raises(ResumeMismatchError, match=words):
        next(loader)


@pytest.mark.filterwarnings(READ_AGAIN, "ignore:.*are others")
@pytest.mark.parametrize(
    ("factory", "words"), list(CHANGED_LOADERS.values())[:3], ids=list(CHANGED_LOADERS)[:3]
)
def test_other_data_in_a_shard_is_a_warning_without_strictness(factory, words):
    loader = new_loader(SHARDS, factory)
    loader.load_state_dict(state_after(5), strict=False)
    with pytest.warns(UserWarning, match=words):
        next(loader)
    assert loader.state_dict()["microbatch"] == 6


def test_a_warning_names_the_shard():
    loader = new_loader(SHARDS, shorter)
    loader.load_state_dict(state_after(5), strict=False)
    with pytest.warns(UserWarning, match=r"in shard 'data/s-1-6': .*are others"):
        next(loader)


def test_a_shard_that_ends_before_the_place_is_refused():
    loader = new_loader(SHARDS, shorter_in_order)
    loader.load_state_dict(state_after(5, factory=IN_ORDER))
    with pytest.raises(ResumeMismatchError, match=r"in shard.*has 1 microbatches, 2 were finished"):
        next(loader)


@pytest.mark.parametrize("prefetches", [0, 2])
def test_a_change_is_found_though_the_next_shard_is_empty(prefetches):
    shards = names_of([2, 0, 4])
    loader = new_loader(shards, OpenShard(batch_size=3), prefetches)
    loader.load_state_dict(state_after(1, shards))
    with pytest.raises(ResumeMismatchError, match="batch_size was 2, is 3"):
        next(loader)


def test_a_folder_that_was_moved_is_no_difference():
    seen = take(new_loader(SHARDS), 12)
    for folder in ("elsewhere/and/deeper", "s3://bucket/data", "/"):
        loader = new_loader(names_of([6] * 4, folder))
        loader.load_state_dict(state_after(5))
        assert take(loader, 7) == seen[5:]


BAD = {
    "version": [None, "1", 99, True],
    "class": ["ShmDataLoader", None],
    "seed": [None, 1.0, "7"],
    "dp_rank": [None, 1.0],
    "epoch": [-1, 2**63, None, True, 0.0],
    "microbatch": [-1, 2**63, 4, None],
    "all_rank_indices": [None, 3],
    "dealings": [
        None,
        [],
        [[]],
        [7],
        [[5, []]],
        [[-5, [[1, [], None]]]],
        [[5, [[-1, [], None]]]],
        [[5, [[1, [[0, "00" * 8]], None]]]],
        [[5, [[1, [[2, "00"]], None]]]],
        [[5, [[1, [[2, "zz" * 8]], None]]]],
        [[5, [[1, [], b"damaged"]]]],
        [[5, [[1.5, [], None]]]],
        [[3, [[1, [], None]]]],
    ],
    "fingerprint": [
        None,
        {},
        {"shards": [], "source": [], "more": 1},
        {"shards": [1], "source": []},
        {"shards": [], "source": [["a"]]},
        {"shards": [[["a"], 1]], "source": []},
    ],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, v) for key, values in BAD.items() for v in values], ids=str
)
def test_a_damaged_state_is_refused_and_changes_nothing(key, value):
    state = state_after(5)
    loader = new_loader(SHARDS)
    seen = take(loader, 2)
    before = loader.state_dict()
    with pytest.raises(StateError):
        loader.load_state_dict({**state, key: value})
    assert loader.state_dict() == before
    seen += [plain(next(loader)) for _ in range(10)]
    assert seen == epochs_of(new_loader(SHARDS), 1)[0]


@pytest.mark.parametrize("key", state_after(0))
def test_a_missing_key_is_named(key):
    state = state_after(5)
    del state[key]
    with pytest.raises(StateError, match=f"{key}|a state of None"):
        new_loader(SHARDS).load_state_dict(state)


def test_what_is_no_state_is_refused():
    extra = {**state_after(1), "more": 1}
    of_another_class = ShmDataLoader(0, list).state_dict()
    for state, words in [
        (extra, "'more'"),
        (of_another_class, "ShmDataLoader"),
        ({**state_after(1), "version": 99}, "upgrade"),
        ({"epoch": 1}, "version"),
        ([], "dict"),
        (None, "dict"),
    ]:
        with pytest.raises(StateError, match=words):
            new_loader(SHARDS).load_state_dict(state)


def test_loading_does_not_change_the_state_that_is_given():
    state = state_after(5)
    kept = copy.deepcopy(state)
    loader = new_loader(SHARDS)
    loader.load_state_dict(state)
    take(loader, 9)
    assert state == kept
    loader.load_state_dict({})
    assert loader.state_dict() != kept


def of_rank(rank, dp_size, lengths=(1,) * 32, prefetches=0):
    shards = names_of(lengths)
    sampler = DistributedDataParallelShardSampler(shards, dp_size, rank, drop_last=False)
    return new_loader(sampler, IN_ORDER, prefetches, dp_rank=rank)


def published(*indices):
    return {"all_rank_indices": [torch.tensor(index) for index in indices]}


def test_the_example_of_the_reference():
    loader = of_rank(0, 2, [4] * 12, prefetches=3)
    sampler = loader._sampler
    sampler.load_state_dict(published(-1, 5))
    take(loader, 3)  # so it is in its second shard, and up to the fifth are handed out
    assert [int(index) for index in sampler.all_rank_indices] == [4, 5]
    assert indices_of(loader.state_dict()) == [0, 1]


def test_the_state_of_the_reference_is_loaded_by_every_rank():
    state = published(1, 1, 5, 6)
    ranks = [of_rank(rank, 4) for rank in range(4)]
    for loader in ranks:
        loader.load_state_dict(state)
    assert [indices_of(loader.state_dict()) for loader in ranks] == [[1, 1, 5, 6]] * 4
    left = [[i // 100 for i in ids_in(epochs_of(loader, 1)[0])] for loader in ranks]
    assert left == [[*range(2, 8)], [*range(10, 16)], [22, 23], [31]]


def test_the_state_of_the_reference_is_dealt_anew_to_another_number_of_ranks():
    ranks = [of_rank(rank, 3) for rank in range(3)]
    for loader in ranks:
        loader.load_state_dict(published(1, 1, 5, 6))
    left = [ids_in(epochs_of(loader, 1)[0]) for loader in ranks]
    shards = [*range(2, 8), *range(10, 16), 22, 23, 31]
    assert [i // 100 for ids in left for i in ids] == shards
    assert [len(ids) for ids in left] == [5, 5, 5]


@pytest.mark.parametrize("index", [-1, -2, -5])
def test_an_index_below_the_first_begins_the_epoch(index):
    loader = new_loader(SHARDS)
    loader.load_state_dict(published(index))
    assert sorted(ids_in(epochs_of(loader, 1)[0])) == all_ids([6] * 4)


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        (published(4)["all_rank_indices"], "rank 0 finished shard 4.*it has 4"),
        (published(1, 1)["all_rank_indices"], "of 2 ranks"),
        ([], "empty"),
        ([torch.tensor(1.5)], "integer"),
        ([torch.tensor([1, 2])], "integer"),
        ([torch.tensor(True)], "integer"),
        (["1"], "integer"),
        ([None], "integer"),
        ([1.0], "integer"),
        (torch.tensor([1]), "list"),
        (7, "list"),
    ],
    ids=str,
)
def test_wrong_indices_are_refused(indices, words):
    loader = new_loader(SHARDS)
    with pytest.raises(StateError, match=words):
        loader.load_state_dict({"all_rank_indices": indices})
    assert sorted(ids_in(epochs_of(loader, 1)[0])) == all_ids([6] * 4)


def of_differing_batches(shard):
    return DataLoader(range(12), batch_size=2 + SHARDS.index(shard) % 3)


def test_shards_may_differ_among_themselves():
    loader = new_loader(SHARDS, of_differing_batches)
    states = [loader.state_dict()]
    for _ in range(18):
        next(loader)
        states.append(loader.state_dict())
    for done, state in enumerate(states[11:-1], 11):  # two shards, at least, have been seen
        loader = new_loader(SHARDS, of_differing_batches)
        loader.load_state_dict(state)
        next(loader)
        assert loader.state_dict() == states[done + 1]


def test_a_shard_that_has_grown_is_noticed():
    def grown(shard):
        return DataLoader(range(13), batch_size=2)

    def before(shard):
        return DataLoader(range(12), batch_size=2)

    loader = new_loader(SHARDS, before)
    for _ in range(8):
        next(loader)
    state = loader.state_dict()
    loader = new_loader(SHARDS, grown)
    loader.load_state_dict(state)
    with pytest.raises(ResumeMismatchError, match=r"len\(dataset\) was 12, is 13"):
        next(loader)
