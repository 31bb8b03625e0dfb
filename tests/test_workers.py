"""A `DataLoader` with ``num_workers=N``: N producers, each with a ring, read in its order."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import psutil
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    default_collate,
    get_worker_info,
)

from fkat.data import ShardedDataLoader, ShmDataLoader
from tests.who_made_it import BATCH_SIZE, NUM_BATCHES, WhoMadeIt, plain, rest, who_made_it

# torch's word about more workers than this machine has cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def producers():
    return {child.pid for child in psutil.Process().children() if child.ppid() == os.getpid()}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_each_makes_what_the_dataloader_would_have_it_make(num_workers, method):
    factory = partial(who_made_it, num_workers, shuffle=False)
    loader = ShmDataLoader(0, factory, multiprocessing_context=method)
    expected = [plain(batch) for batch in factory()]
    assert [int(made_by[0]) for _, made_by, _ in expected] == [
        number % num_workers for number in range(NUM_BATCHES)
    ]
    for _ in range(2):
        assert [plain(microbatch) for microbatch in loader] == expected
    assert len(loader) == NUM_BATCHES
    assert len(set(loader._feed.pids)) == num_workers
    assert all(not psutil.Process(pid).children() for pid in loader._feed.pids)
    loader.teardown()


def test_more_workers_than_microbatches():
    loader = ShmDataLoader(0, partial(who_made_it, 9))
    for _ in range(2):
        assert [int(who[0]) for _, who, _ in loader] == list(range(NUM_BATCHES))
    loader.teardown()


@pytest.mark.parametrize("num_taken", range(NUM_BATCHES))
def test_resumed_each_makes_what_it_would_have_made(num_taken):
    factory = partial(who_made_it, 3)
    loader = ShmDataLoader(0, factory)
    expected = rest(loader)
    loader.set_epoch(0)
    begun = [plain(microbatch) for _, microbatch in zip(range(num_taken), loader, strict=False)]
    resumed = ShmDataLoader(0, factory)
    resumed.load_state_dict(loader.state_dict())
    assert begun + rest(resumed) == expected
    loader.teardown()
    resumed.teardown()


@pytest.mark.parametrize("num_taken", [0, 1, 4, 6])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_only_the_one_that_dies_is_started_again(victim, num_taken):
    factory = partial(who_made_it, 3)
    with_two = ShmDataLoader(0, factory)
    expected = [plain(m) for _ in range(2) for m in with_two]
    loader = ShmDataLoader(0, factory, 0)
    found = [plain(next(loader)) for _ in range(num_taken)]
    if not found:
        len(loader)
        found.append(plain(next(loader)))
    before = loader._feed.pids
    os.kill(before[victim], signal.SIGKILL)
    found += rest(loader)
    found += [plain(microbatch) for microbatch in loader]
    assert found == expected
    assert loader.stats().num_restarts == 1
    after = loader._feed.pids
    assert [number for number in range(3) if before[number] != after[number]] == [victim]
    loader.teardown()
    with_two.teardown()


class Waiting(Dataset):
    """Sample 0 is made when sample ``awaited`` has been; it says whether ``beyond`` was, too."""

    def __init__(self, folder, awaited, beyond):
        self.folder, self.awaited, self.beyond = folder, awaited, beyond

    def __len__(self):
        return 12

    def __getitem__(self, index):
        (self.folder / str(index)).touch()
        while index == 0 and not (self.folder / str(self.awaited)).exists():
            time.sleep(0.01)
        return index, (self.folder / str(self.beyond)).exists()


def waiting(folder, awaited, beyond):
    return DataLoader(Waiting(folder, awaited, beyond), batch_size=None, num_workers=2)


def test_a_slow_sample_lets_the_other_producers_run_ahead_up_to_their_share(tmp_path):
    # The second worker's share of the window is four records: first what it reads, then 1, 3, 5.
    loader = ShmDataLoader(0, partial(waiting, tmp_path, 5, beyond=7), 8)
    microbatches = list(loader)
    assert [index for index, _ in microbatches] == list(range(12))
    assert microbatches[0] == [0, False]
    loader.teardown()


def note(path, worker_id):
    with path.open("a") as file:
        file.write(f"{worker_id} of {get_worker_info().num_workers}\n")


@pytest.mark.parametrize("is_persistent", [False, True])
def test_worker_init_fn_is_called_as_the_dataloader_does(tmp_path, is_persistent):
    path = tmp_path / "calls"
    options = {"worker_init_fn": partial(note, path), "persistent_workers": is_persistent}
    loader = ShmDataLoader(0, partial(who_made_it, 2, **options))
    for _ in range(3):
        list(loader)
    loader.teardown()
    ours = sorted(path.read_text().splitlines())
    path.unlink()
    theirs = who_made_it(2, **options)
    for _ in range(3):
        list(theirs)
    assert ours == sorted(path.read_text().splitlines())


def is_shared(samples):
    batch = default_collate([torch.tensor([sample[0]]) for sample in samples])
    return batch, batch.is_shared(), get_worker_info().id


def test_default_collate_makes_no_files_in_shared_memory():
    loader = ShmDataLoader(0, partial(who_made_it, 2, collate_fn=is_shared))
    assert [made[1:] for made in loader] == [(False, i % 2) for i in range(NUM_BATCHES)]
    loader.teardown()


def of_shard(shard):
    return who_made_it(2)


def test_loaders_of_shards_keep_workers_of_their_own():
    loader = ShardedDataLoader(0, ["a", "b"], of_shard, 1)
    before = producers()
    assert [int(who[0]) for _, who, _ in loader] == [0, 1, 0, 1, 0, 1, 0] * 2
    assert len(producers() - before) == 1
    loader.teardown()


class Faulty(WhoMadeIt):
    def __getitem__(self, index):
        if index == 10:
            raise KeyError(f"no sample {index}")
        return torch.tensor(index)


def faulty():
    return DataLoader(Faulty(), BATCH_SIZE, num_workers=2)


def test_an_error_comes_at_its_place_and_the_epoch_can_be_begun_again():
    loader = ShmDataLoader(0, faulty)
    for _ in range(2):
        assert [next(loader).tolist() for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
        with pytest.raises(KeyError, match="no sample 10"):
            next(loader)
        iter(loader)
    loader.teardown()


def test_without_a_process_the_dataloader_has_its_own_workers():
    loader = ShmDataLoader(0, partial(who_made_it, 2), multiprocessing=False)
    assert [int(who[0]) for _, who, _ in loader] == [0, 1, 0, 1, 0, 1, 0]
    loader.teardown()
