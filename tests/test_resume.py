"""A loader that goes on where another stopped delivers what the other would have delivered."""

from __future__ import annotations

import io
import time
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from fkat.data import ShmDataLoader
from tests.sources import (
    EPOCHS,
    MAP_STYLE,
    NOT_OURS,
    REPLAYED,
    SEED,
    STATEFUL,
    WITH_WORKERS,
    Augmented,
    StatefulStream,
    lazy,
    sequential,
    shuffled,
    stateful,
    stream,
    workers,
)


def plain(microbatch):
    """Everything in a microbatch, to be compared."""
    return [v.tolist() if isinstance(v, torch.Tensor) else v for v in microbatch]


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def uninterrupted(factory, **options):
    """Two epochs, and the state before each of their microbatches and behind the last."""
    loader = ShmDataLoader(SEED, factory, 2, **options)
    states, microbatches = [loader.state_dict()], []
    for _ in range(EPOCHS):
        for microbatch in loader:
            microbatches.append(plain(microbatch))
            states.append(loader.state_dict())
    loader.teardown()
    assert len(microbatches) % EPOCHS == 0
    assert microbatches[0] != microbatches[len(microbatches) // EPOCHS]
    return microbatches, states


def resumed(factory, state, count, **options):
    """The next ``count`` microbatches after a state, over as many epochs as that takes."""
    loader = ShmDataLoader(SEED, factory, 2, **options)
    loader.load_state_dict(through_a_file(state))
    found = []
    while len(found) < count:
        found += [plain(microbatch) for microbatch in loader]
    loader.teardown()
    return found[:count]


@pytest.mark.filterwarnings(NOT_OURS)
@pytest.mark.parametrize("factory", [*MAP_STYLE, *STATEFUL])
def test_resume_at_every_step(factory):
    whole, states = uninterrupted(factory, multiprocessing=False)
    for done, state in enumerate(states):
        rest = resumed(factory, state, len(whole) - done, multiprocessing=False)
        assert rest == whole[done:], f"after {done} microbatches"


@pytest.mark.filterwarnings(NOT_OURS)
@pytest.mark.parametrize("factory", [shuffled, lazy, stateful, *WITH_WORKERS])
def test_resume_from_a_ring(factory):
    whole, states = uninterrupted(factory)
    for done in (0, 1, 5, 8, 9, len(whole) - 1):
        assert resumed(factory, states[done], len(whole) - done) == whole[done:]


@pytest.mark.parametrize("factory", REPLAYED)
@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_a_stream_without_a_state_is_replayed_with_advice(factory, multiprocessing):
    whole, states = uninterrupted(factory, multiprocessing=multiprocessing)
    with pytest.warns(UserWarning, match="read again .* map-style .* state_dict"):
        rest = resumed(factory, states[6], len(whole) - 6, multiprocessing=multiprocessing)
    assert rest == whole[6:]


def slow():
    for index in range(8):
        time.sleep(0.3)
        yield index


@pytest.mark.filterwarnings("ignore:.*read again")
@pytest.mark.parametrize(("count", "is_shown"), [(5, True), (1, False)])
def test_a_replay_of_more_than_a_second_shows_its_progress(capfd, count, is_shown):
    loader = ShmDataLoader(SEED, slow, 0)
    state = [next(loader), loader.state_dict()][1]
    state = {**state, "microbatch": count}
    state["fingerprint"] = {**state["fingerprint"], "trail": [[count, 0]]}
    loader.load_state_dict(state)
    assert next(loader) == count
    loader.teardown()
    assert ("replaying" in capfd.readouterr().err) == is_shown


@pytest.mark.filterwarnings(NOT_OURS)
@pytest.mark.parametrize("factory", [shuffled, workers, stateful])
def test_a_chain_of_resumes(factory):
    whole, _ = uninterrupted(factory, multiprocessing=False)
    found, state = [], None
    for count in (3, 1, 7, 2):
        loader = ShmDataLoader(SEED, factory, 2)
        loader.load_state_dict({} if state is None else through_a_file(state))
        while count:
            for microbatch in loader:
                found.append(plain(microbatch))
                count -= 1
                if count == 0:
                    break
        state = loader.state_dict()
        loader.teardown()
    assert found == whole[: len(found)]
    assert len(found) == 13


@pytest.mark.filterwarnings(NOT_OURS)
def test_workers_change_no_microbatch():
    expected, _ = uninterrupted(shuffled, multiprocessing=False)
    for factory in WITH_WORKERS[:2]:
        assert uninterrupted(factory)[0] == expected


class Counted(Augmented):
    """Counts in a file, byte by byte, how many samples were read."""

    def __init__(self, path):
        self.path = path

    def __getitem__(self, index):
        with self.path.open("ab") as file:
            file.write(b".")
        return index


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipping_reads_no_data(tmp_path, num_workers):
    path = tmp_path / "reads"

    def factory():
        return DataLoader(Counted(path), batch_size=1, shuffle=True, num_workers=num_workers)

    loader = ShmDataLoader(SEED, factory, 0)
    for _ in range(20):
        next(loader)
    state = loader.state_dict()
    loader.teardown()
    path.unlink()
    loader = ShmDataLoader(SEED, factory, 0)
    loader.load_state_dict(state)
    assert len(list(loader)) == 3
    loader.teardown()
    assert path.stat().st_size == 3


@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_a_live_loader_can_be_sent_back_and_forth(multiprocessing):
    whole, states = uninterrupted(shuffled, multiprocessing=False)
    loader = ShmDataLoader(SEED, shuffled, 2, multiprocessing=multiprocessing)
    for done in (5, 2, 11, 0):
        loader.load_state_dict(states[done])
        iter(loader)  # a state is no reason to go to the next epoch
        assert [plain(next(loader)) for _ in range(2)] == whole[done : done + 2]
    loader.teardown()


def test_the_epoch_that_was_resumed_can_be_run_again_in_full():
    whole, states = uninterrupted(shuffled, multiprocessing=False)
    loader = ShmDataLoader(SEED, shuffled, 2)
    loader.load_state_dict(states[5])
    assert [plain(m) for m in loader] == whole[5:8]
    assert [plain(m) for m in loader] == whole[8:]
    loader.set_epoch(0)
    assert [plain(m) for m in loader] == whole[:8]
    loader.teardown()


def test_an_epoch_that_failed_after_a_resume_begins_again_where_it_was_resumed():
    whole, states = uninterrupted(shuffled, multiprocessing=False)
    attempts = []

    def fails_once():
        attempts.append(None)
        return sequential(shuffle=True, collate_fn=fail if len(attempts) == 1 else None)

    def fail(samples):
        raise OSError(f"{len(samples)} samples")

    loader = ShmDataLoader(SEED, fails_once, multiprocessing=False)
    loader.load_state_dict(states[3], strict=False)
    with pytest.raises(OSError, match="3 samples"):
        next(loader)
    loader.teardown()
    assert [plain(m) for m in loader] == whole[3:8]


def test_the_length_of_a_resumed_epoch_is_that_of_the_whole():
    _, states = uninterrupted(shuffled, multiprocessing=False)
    loader = ShmDataLoader(SEED, shuffled, multiprocessing=False)
    loader.load_state_dict(states[5])
    assert len(loader) == 8
    assert len(list(loader)) == 3


def test_a_snapshot_remembers_its_moment():
    _, states = uninterrupted(shuffled, multiprocessing=False)
    loader = ShmDataLoader(SEED, shuffled, multiprocessing=False)
    snapshots = [loader.snapshot()]
    for _ in range(EPOCHS):
        for _ in loader:
            snapshots.append(loader.snapshot())
    assert [snapshot() for snapshot in snapshots] == states


@pytest.mark.parametrize("done", [0, 1, 7, 8])
def test_a_snapshot_of_the_next_epoch_begins_it(done):
    whole, _ = uninterrupted(shuffled, multiprocessing=False)
    loader = ShmDataLoader(SEED, shuffled, multiprocessing=False)
    for _ in range(done):
        next(loader)
    state = loader.snapshot(next_epoch=True)()
    assert resumed(shuffled, state, 8, multiprocessing=False) == whole[8:]


@pytest.mark.parametrize("factory", [shuffled, stream])
def test_behind_the_last_microbatch_stands_the_first_of_the_next_epoch(factory):
    loader = ShmDataLoader(SEED, factory, multiprocessing=False)
    list(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["microbatch"]) == (1, 0)


def test_with_a_length_the_last_microbatch_is_known_to_be_the_last():
    loader = ShmDataLoader(SEED, shuffled, multiprocessing=False)
    for _ in range(8):
        next(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["microbatch"]) == (1, 0)


def test_states_start_no_process_and_change_nothing():
    loader = ShmDataLoader(SEED, shuffled, 2)
    first = loader.state_dict()
    assert loader.state_dict() == first
    loader.load_state_dict(first)
    loader.load_state_dict({})
    assert loader.state_dict() == first
    assert loader._feed is None


def test_every_state_has_the_same_keys():
    for factory in (shuffled, stream, stateful):
        for state in uninterrupted(factory, multiprocessing=False)[1]:
            assert set(state) == {
                *("version", "class", "seed", "dp_size", "epoch", "microbatch"),
                *("fingerprint", "inner", "workers"),
            }
            assert set(state["fingerprint"]) == {"source", "trail", "part"}


class Unplain(StatefulStream):
    def state_dict(self):
        return {"position": self.position, "when": object}


def test_a_state_that_cannot_be_in_a_checkpoint_is_left_out_with_a_warning():
    loader = ShmDataLoader(SEED, lambda: DataLoader(Unplain(), batch_size=3), multiprocessing=False)
    with pytest.warns(UserWarning, match="Unplain cannot be in a checkpoint"):
        next(loader)
    assert loader.state_dict()["inner"] is None


def test_the_users_own_progress_is_not_lost_in_an_interrupted_replay():
    """A state taken right after a load is the one that was loaded."""
    _, states = uninterrupted(stream, multiprocessing=False)
    loader = ShmDataLoader(SEED, stream, multiprocessing=False)
    loader.load_state_dict(states[4])
    assert loader.state_dict() == states[4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        next(loader)
    assert loader.state_dict() == states[5]
