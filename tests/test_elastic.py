"""An epoch that one number of ranks began and another finishes: every sample exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fkat.data.errors import StateError
from fkat.data.sharded import (
    DistributedDataParallelShardSampler,
    ShardedDataLoader,
    ShuffledShardSampler,
)
from tests.shards import (
    LENGTHS,
    READ_AGAIN,
    OpenShard,
    all_ids,
    epochs_of,
    ids_in,
    indices_of,
    lines_of,
    names_of,
    new_loader,
    plain,
    through_a_checkpoint,
)

MERGED = -1  # the states of all ranks, put together; else the number of the rank that wrote
SIZES = [1, 2, 3, 4]
merge = ShardedDataLoader.merge_state_dicts


def rank_sampler(rank, dp_size, lengths=LENGTHS):
    shards = ShuffledShardSampler(names_of(lengths), seed=3)
    return DistributedDataParallelShardSampler(shards, dp_size, rank, drop_last=False)


def sharded_ranks(dp_size, factory=None, lengths=LENGTHS, state=None, **options):
    ranks = [
        new_loader(rank_sampler(rank, dp_size, lengths), factory, 2, dp_rank=rank, **options)
        for rank in range(dp_size)
    ]
    return with_state(ranks, state)


def with_state(ranks, state):
    for loader in ranks if state is not None else ():
        loader.load_state_dict(through_a_checkpoint(state))
    return ranks


def step(ranks, count, seen):
    """Every rank trains on so many microbatches; one that has no more has none."""
    for _ in range(count):
        seen += [plain(microbatch) for loader in ranks if (microbatch := next(loader, None))]


def rest_of(loader):
    """What is left of its epoch. Not a for loop, which begins the next one."""
    return [plain(microbatch) for microbatch in iter(lambda: next(loader, None), None)]


def finish(ranks, seen):
    for loader in ranks:
        seen += rest_of(loader)


def saved(ranks, writer):
    if writer == MERGED:
        return merge([loader.state_dict() for loader in ranks])
    return ranks[writer % len(ranks)].state_dict()


def chain(factory, lengths, sizes, counts, writer):
    """What runs of these numbers of ranks see of an epoch, each but the last stopped in it."""
    seen, state = [], None
    for dp_size, count in zip(sizes, [*counts, 0], strict=False):
        ranks = sharded_ranks(dp_size, factory, lengths, state)
        step(ranks, count, seen)
        state = saved(ranks, writer)
        if state["epoch"] > 0:
            break  # the writer is done with its shards, and knows nothing of others'
    finish(ranks, seen)
    return seen


def by_content(microbatches):
    return sorted(microbatches)


@pytest.fixture(scope="module")
def epoch():
    """The first epoch, of one rank."""
    return by_content(epochs_of(sharded_ranks(1)[0], 1)[0])


@pytest.mark.filterwarnings(READ_AGAIN)
@pytest.mark.parametrize("writer", [MERGED, 0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_shards_are_finished_by_any_number_of_ranks(before, after, count, writer, epoch):
    seen = []
    ranks = sharded_ranks(before)
    step(ranks, count, seen)
    finish(sharded_ranks(after, state=saved(ranks, writer)), seen)
    assert by_content(seen) == epoch


@pytest.mark.filterwarnings(READ_AGAIN)
@pytest.mark.parametrize("writer", [MERGED, 0, 1])
@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 1, 0), (0, 2, 1), (3, 0, 1)], ids=str)
@pytest.mark.parametrize(
    "sizes", [(1, 2, 3, 1), (2, 1, 2, 4), (3, 2, 2, 1), (4, 3, 4, 2), (2, 2, 3, 3)], ids=str
)
@pytest.mark.parametrize("kind", ["map", "stream", "stateful"])
def test_a_chain_of_numbers_of_ranks(kind, sizes, counts, writer):
    factory = OpenShard(kind)
    whole = by_content(epochs_of(sharded_ranks(1, factory)[0], 1)[0])
    assert by_content(chain(factory, LENGTHS, sizes, counts, writer)) == whole


def test_producers_divide_an_epoch_as_one_process_does(epoch):
    seen = []
    ranks = sharded_ranks(2, multiprocessing=True)
    step(ranks, 3, seen)
    finish(sharded_ranks(3, state=saved(ranks, 0), multiprocessing=True), seen)
    assert by_content(seen) == epoch


@pytest.mark.parametrize("writer", [MERGED, 0, 1])
def test_the_same_number_of_ranks_goes_on_each_at_its_place(writer):
    ranks = sharded_ranks(3)
    step(ranks, 2, [])
    state = saved(ranks, writer)
    tails = [rest_of(loader) for loader in ranks]
    assert [rest_of(loader) for loader in sharded_ranks(3, state=state)] == tails


def test_the_epoch_after_a_resume_is_dealt_as_always():
    ranks = sharded_ranks(2)
    step(ranks, 2, [])
    resumed = sharded_ranks(3, state=saved(ranks, 0))
    finish(resumed, [])
    second = [epochs_of(loader, 2)[1] for loader in sharded_ranks(3)]
    assert [epochs_of(loader, 1)[0] for loader in resumed] == second


@pytest.mark.parametrize("count", [0, 1])
def test_states_can_be_merged_right_after_a_resume_by_more_ranks(count, epoch):
    seen = []
    ranks = sharded_ranks(2)
    step(ranks, 2, seen)
    ranks = sharded_ranks(4, state=saved(ranks, MERGED))
    step(ranks, count, seen)
    finish(sharded_ranks(3, state=saved(ranks, MERGED)), seen)
    assert by_content(seen) == epoch


def test_a_merged_state_has_the_indices_of_every_rank():
    ranks = sharded_ranks(2, lengths=[2] * 6)
    step(ranks, 2, [])
    assert indices_of(saved(ranks, MERGED)) == [1, 1]


def test_states_of_different_steps_or_runs_are_not_merged():
    ranks = sharded_ranks(2)
    step(ranks, 1, [])
    early = [loader.state_dict() for loader in ranks]
    step(ranks, 1, [])
    late = [loader.state_dict() for loader in ranks]
    other_seed = sharded_ranks(2, seed=8)
    step(other_seed, 1, [])
    for states, words in [
        ([], "no states"),
        ([early[0], late[1]], "microbatch"),
        ([early[0], other_seed[1].state_dict()], "seed"),
        ([*early, early[1]], "2"),
        ([early[0], {**early[1], "dealings": []}], "dealings"),
        ([early[0], {**early[1], "dealings": [[1, "damaged"]]}], "dealings|damaged"),
        ([early[0], {"epoch": 0}], "version"),
    ]:
        with pytest.raises(StateError, match=words):
            merge(states)


def test_states_that_were_resumed_at_different_places_are_not_merged():
    states = []
    for rank, dp_size in enumerate((1, 3)):
        ranks = sharded_ranks(dp_size)
        step(ranks, 1, [])
        ranks = sharded_ranks(2, state=saved(ranks, 0))
        step(ranks, 1, [])
        states.append(ranks[rank].state_dict())
    with pytest.raises(StateError, match="different places"):
        merge(states)


@pytest.mark.filterwarnings(READ_AGAIN)
@pytest.mark.parametrize("kind", ["map", "stream"])
def test_a_rank_that_goes_on_alone_opens_no_shard_of_another(kind, tmp_path):
    ranks = sharded_ranks(2, OpenShard(kind, shuffle=False), lengths=[4] * 6)
    step(ranks, 3, [])
    factory = OpenShard(kind, shuffle=False, log=str(tmp_path / "log"))
    loader = sharded_ranks(2, factory, [4] * 6, saved(ranks, 0))[0]
    own = set(rank_sampler(0, 2, [4] * 6).deal(0)[0])
    next(loader)
    finish([loader], [])
    opened = {line.split()[1] for line in lines_of(factory.log) if line.startswith("open")}
    assert opened <= own


@pytest.mark.filterwarnings(READ_AGAIN)
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=4, max_size=9),
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    counts=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    writer=st.integers(MERGED, 3),
    kind=st.sampled_from(["map", "stream", "stateful"]),
)
def test_any_shards_any_ranks_any_steps(lengths, sizes, counts, writer, kind):
    seen = chain(OpenShard(kind), lengths, sizes, counts, writer)
    assert sorted(ids_in(seen)) == all_ids(lengths)
