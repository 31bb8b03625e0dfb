"""The state of a `ShardedDataLoader`: a run goes on anywhere as if it had never stopped."""

from __future__ import annotations

import psutil
import pytest
import torch

from fkat.data.sharded import ShardSampler
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
    shuffled,
    take,
    through_a_checkpoint,
)

BOTH = pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
KINDS = ("map", "stream", "stateful")
IN_ORDER = OpenShard(shuffle=False)


def run_with_states(loader, epochs=2):
    """All microbatches, and the state before each of them and after the last."""
    states, seen = [loader.state_dict()], []
    for _ in range(epochs):
        for microbatch in loader:
            seen.append(plain(microbatch))
            states.append(loader.state_dict())
    return states, seen


def resumed(state, factory=None, num_shard_prefetches=0, **options):
    loader = new_loader(None, factory, num_shard_prefetches, **options)
    loader.load_state_dict(through_a_checkpoint(state))
    return loader


@pytest.mark.filterwarnings(READ_AGAIN)
@pytest.mark.parametrize("num_shard_prefetches", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_resume_at_every_step_of_two_epochs(kind, num_shard_prefetches):
    factory = OpenShard(kind)
    states, seen = run_with_states(new_loader(None, factory, num_shard_prefetches))
    tails = [
        take(resumed(state, factory, num_shard_prefetches), len(seen) - done)
        for done, state in enumerate(states)
    ]
    assert tails == [seen[done:] for done in range(len(states))]


@pytest.mark.filterwarnings(READ_AGAIN)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_chain_of_resumes(step, kind):
    factory = OpenShard(kind)
    seen = take(new_loader(None, factory), 40)
    chained, state = [], {}
    while len(chained) < 40:
        loader = resumed(state, factory, len(chained) % 4)
        chained += take(loader, step)
        state = loader.state_dict()
    assert chained[:40] == seen


@pytest.mark.parametrize("num_shard_prefetches", [0, 1, 3])
def test_resume_with_producers(num_shard_prefetches):
    states, seen = run_with_states(new_loader())
    for done in range(0, 24, 5):
        loader = resumed(states[done], None, num_shard_prefetches, multiprocessing=True)
        assert take(loader, 5) == seen[done : done + 5]
        assert take(resumed(loader.state_dict()), 3) == seen[done + 5 : done + 8]


@pytest.mark.parametrize("done", [1, 4, 17])
def test_resume_of_shards_read_by_workers(done):
    states, seen = run_with_states(new_loader())
    factory = OpenShard(num_workers=2)
    loader = resumed(states[done], factory, 2, multiprocessing=True)
    assert take(loader, 6) == seen[done : done + 6]
    assert take(resumed(loader.state_dict()), 3) == seen[done + 6 : done + 9]


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_that_of_any_number_of_producers(kind):
    factory = OpenShard(kind)
    of = [
        [
            {**state, "all_rank_indices": indices_of(state)}
            for state in run_with_states(new_loader(None, factory, prefetches))[0]
        ]
        for prefetches in (0, 1, 2, 3)
    ]
    assert all(states == of[0] for states in of)


def test_an_iterable_shard_without_state_is_read_again_with_a_warning():
    factory = OpenShard("stream")
    states, seen = run_with_states(new_loader(None, factory), 1)
    inside = next(i for i, s in enumerate(states) if s["dealings"][0][1][0][1])
    with pytest.warns(UserWarning, match=r"read again.*state_dict"):
        assert take(resumed(states[inside], factory), 3) == seen[inside : inside + 3]


@BOTH
def test_what_was_loaded_is_what_is_saved(multiprocessing):
    states, _ = run_with_states(new_loader(None, OpenShard("stateful")))
    for state in states:
        loader = resumed(state, OpenShard("stateful"), 2, multiprocessing=multiprocessing)
        assert str(loader.state_dict()) == str(state)
        iter(loader)
        assert str(loader.state_dict()) == str(state)


def test_a_state_starts_no_process_and_opens_no_shard(tmp_path):
    before = psutil.Process().children()
    states, _ = run_with_states(new_loader())
    factory = OpenShard(log=str(tmp_path / "log"))
    loader = new_loader(None, factory, 3, multiprocessing=True)
    for state in ({}, states[0], states[5], states[-1]):
        loader.load_state_dict(state)
        loader.state_dict()
        loader.snapshot(next_epoch=True)()
    assert psutil.Process().children() == before
    assert lines_of(factory.log) == []


@BOTH
def test_a_state_is_the_same_however_often_it_is_asked_for(multiprocessing):
    loader = new_loader(None, None, 2, multiprocessing=multiprocessing)
    seen = []
    for microbatch in loader:
        assert str(loader.state_dict()) == str(loader.state_dict())
        seen.append(plain(microbatch))
    assert seen == epochs_of(new_loader(), 1)[0]


@BOTH
def test_the_keys_are_the_same_before_the_first_microbatch_and_after_the_last(multiprocessing):
    states, _ = run_with_states(new_loader(None, None, 2, multiprocessing=multiprocessing))
    assert {tuple(state) for state in states} == {tuple(states[0])}


@BOTH
def test_positions_count_microbatches_of_the_epoch(multiprocessing):
    loader = new_loader(names_of([3, 1, 2]), IN_ORDER, 2, multiprocessing=multiprocessing)
    states, _ = run_with_states(loader)
    assert [(state["epoch"], state["microbatch"]) for state in states] == [
        *[(0, 0), (0, 1), (0, 2), (0, 3)],
        *[(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)],
    ]
    assert [indices_of(state) for state in states] == [
        *[[-1], [-1], [0], [1]],
        *[[-1], [-1], [0], [1], [-1]],
    ]


@BOTH
def test_the_last_microbatch_ends_the_epoch_before_stop_iteration(multiprocessing):
    loader = new_loader(names_of([2, 2]), IN_ORDER, 2, multiprocessing=multiprocessing)
    places = []
    for _ in range(2):
        next(loader)
        places.append((loader.state_dict()["epoch"], loader.state_dict()["microbatch"]))
    assert places == [(0, 1), (1, 0)]


@BOTH
def test_a_snapshot_is_the_state_at_the_time_however_late_it_is_looked_at(multiprocessing):
    loader = new_loader(None, None, 2, multiprocessing=multiprocessing)
    states, snapshots = [loader.state_dict()], [loader.snapshot()]
    for _ in range(2):
        for _ in loader:
            states.append(loader.state_dict())
            snapshots.append(loader.snapshot())
    loader.load_state_dict(states[3])
    assert [str(snapshot()) for snapshot in snapshots] == [str(state) for state in states]


def test_a_snapshot_of_the_next_epoch_begins_it():
    epochs = epochs_of(new_loader(), 2)
    for taken in (0, 1, 7, 16):
        loader = new_loader()
        take(loader, taken)
        # After the last microbatch, but before StopIteration, the epoch is still the first.
        loader = resumed(loader.snapshot(next_epoch=True)())
        assert epochs_of(loader, 1)[0] == epochs[1]


@pytest.mark.parametrize("taken", [0, 3, 16])
@BOTH
def test_loading_in_the_middle_of_an_epoch(multiprocessing, taken):
    states, seen = run_with_states(new_loader())
    loader = new_loader(None, None, 2, multiprocessing=multiprocessing)
    take(loader, taken)
    for done in (6, 2, 20, 0):
        loader.load_state_dict(states[done])
        assert take(loader, 9) == seen[done : done + 9]


def test_a_loop_left_after_a_resume_is_followed_by_the_next_epoch():
    states, _ = run_with_states(new_loader())
    loader = resumed(states[5])
    next(iter(loader))
    assert epochs_of(loader, 1)[0] == epochs_of(new_loader(), 2)[1]


def test_set_epoch_as_trainers_call_it_does_not_undo_a_resume():
    states, seen = run_with_states(new_loader())
    loader = resumed(states[5])
    loader.set_epoch(0)
    assert [plain(microbatch) for microbatch in loader] == seen[5:16]
    loader.set_epoch(1)
    assert [plain(microbatch) for microbatch in loader] == seen[16:]


@pytest.mark.parametrize("kind", ["map", "stateful"])
@pytest.mark.parametrize("num_shard_prefetches", [0, 2])
def test_resume_reads_nothing_of_what_is_finished(num_shard_prefetches, kind, tmp_path):
    states, seen = run_with_states(new_loader(None, OpenShard(kind)), 1)
    for done, state in enumerate(states):
        factory = OpenShard(kind, log=str(tmp_path / f"log {done}"))
        left = take(resumed(state, factory, num_shard_prefetches), len(seen) - done)
        lines = lines_of(factory.log)
        assert sorted(f"read {i}" for i in ids_in(left)) == sorted(
            line for line in lines if line.startswith("read")
        )
        num_finished = indices_of(state)[0] + 1
        [order] = shuffled().deal(state["epoch"])
        assert not {f"open {shard}" for shard in order[:num_finished]} & set(lines)


def test_the_state_of_the_published_release_begins_after_a_shard():
    loader = new_loader(names_of([1] * 6), IN_ORDER, 2)
    published = {"all_rank_indices": [torch.tensor(3)]}
    loader.load_state_dict(published)
    assert indices_of(loader.state_dict()) == [3]
    assert [ids_in(epoch) for epoch in epochs_of(loader)] == [[400, 500], all_ids([1] * 6)]


def test_the_state_of_the_published_release_is_of_the_epoch_that_was_set():
    [order] = shuffled(LENGTHS).deal(4)
    loader = new_loader()
    loader.set_epoch(4)
    loader.load_state_dict({"all_rank_indices": [torch.tensor(2)]})
    assert epochs_of(loader, 1)[0] == [
        microbatch
        for microbatch in epoch_of(4)
        if order.index(names_of(LENGTHS)[microbatch[0][0] // 100]) > 2
    ]


def epoch_of(number):
    loader = new_loader()
    loader.set_epoch(number)
    return epochs_of(loader, 1)[0]


def test_a_resume_after_the_published_state_counts_from_the_beginning_of_the_epoch():
    sampler = ShardSampler()
    sampler.shards = names_of([2] * 6)
    loader = new_loader(sampler, IN_ORDER, 1)
    loader.load_state_dict({"all_rank_indices": [torch.tensor(1)]})
    next(loader)
    assert sampler.index == 3  # shard 2 is read, 3 is prefetched
    next(loader)
    state = loader.state_dict()
    assert indices_of(state) == [3]
    again = new_loader(names_of([2] * 6), IN_ORDER)
    again.load_state_dict(through_a_checkpoint(state))
    assert ids_in(epochs_of(again, 1)[0]) == [400, 401, 500, 501]
