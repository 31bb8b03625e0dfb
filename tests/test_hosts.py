"""The same loaders in other hosts than Lightning's Trainer, and with other libraries' data."""

from __future__ import annotations

import datasets
import pytest
import torch
import torch.distributed.checkpoint as dcp
from lightning.fabric import Fabric
from torch.distributed.checkpoint.stateful import Stateful
from torch.utils.data import DataLoader

from fkat.data import DictDataLoader, PersistStates, RestoreStates, ShardedDataLoader, ShmDataLoader
from fkat.data.samplers.strategies import RoundRobin

LENGTH = 20
ROWS = [{"id": i, "name": f"row {i}"} for i in range(LENGTH)]


def samples():
    return DataLoader([{"id": i} for i in range(LENGTH)], batch_size=2, shuffle=True)


def of_shard(shard):
    first = 100 * int(shard)
    return DataLoader([{"id": first + i} for i in range(5)], batch_size=2, shuffle=True)


def shm():
    return ShmDataLoader(0, samples, 2)


def sharded():
    return ShardedDataLoader(0, [str(i) for i in range(4)], of_shard, 2, 2)


def mixed():
    return DictDataLoader({"a": shm(), "b": sharded()}, RoundRobin(["a", "b"]))


LOADERS = [shm, sharded, mixed]
DONE = 7


def ids(microbatches):
    return [microbatch["id"].tolist() for microbatch in microbatches]


def take(loader, count):
    return ids(next(loader) for _ in range(count))


def uninterrupted(make):
    loader = make()
    found = ids(loader) + ids(loader)
    loader.teardown()
    return found


@pytest.mark.parametrize("make", LOADERS)
def test_a_loader_is_what_hosts_ask_for(make):
    loader = make()
    for protocol in (Stateful, PersistStates, RestoreStates):
        assert isinstance(loader, protocol)
    for name in ("_iterator", "worker_init_fn", "dataset", "sampler"):
        assert not hasattr(loader, name)


@pytest.mark.parametrize("make", LOADERS)
def test_in_a_plain_loop_with_a_checkpoint_file(make, tmp_path):
    whole = uninterrupted(make)
    found, loader = [], make()
    for microbatch in loader:
        found += ids([microbatch])
        if len(found) == DONE:
            torch.save({"model": torch.zeros(3), "loader": loader.state_dict()}, tmp_path / "file")
            break
    loader.teardown()
    loader = make()
    loader.load_state_dict(torch.load(tmp_path / "file", weights_only=True)["loader"])
    for _ in range(2):
        found += ids(loader)
    loader.teardown()
    assert found == whole


@pytest.mark.parametrize("make", LOADERS)
def test_in_fabric(make, tmp_path):
    fabric = Fabric(accelerator="cpu", devices=1)
    whole = uninterrupted(make)
    loader = make()
    loader.set_device(fabric.device)
    found = take(loader, DONE)
    fabric.save(tmp_path / "file", {"loader": loader})
    loader.teardown()
    loader = make()
    fabric.load(tmp_path / "file", {"loader": loader})
    found += ids(loader)
    loader.teardown()
    assert found == whole[: len(found)]
    assert len(found) == len(whole) / 2


@pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled")
@pytest.mark.filterwarnings("ignore:.*torch.distributed is unavailable")
@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize("started", [False, True], ids=["new", "started"])
def test_under_distributed_checkpoint(make, started, tmp_path):
    whole = uninterrupted(make)
    loader = make()
    found = take(loader, DONE)
    dcp.save({"loader": loader}, checkpoint_id=tmp_path / "checkpoint")
    loader.teardown()
    loader = make()
    if started:
        take(loader, 2)
    dcp.load({"loader": loader}, checkpoint_id=tmp_path / "checkpoint")
    found += ids(loader)
    loader.teardown()
    assert found == whole[: len(found)]
    assert len(found) == len(whole) / 2


def hf_map():
    rows = datasets.Dataset.from_list(ROWS).with_format("torch")
    return DataLoader(rows, batch_size=2, shuffle=True)


def hf_stream():
    rows = datasets.Dataset.from_list(ROWS).to_iterable_dataset(num_shards=4)
    return DataLoader(rows.shuffle(seed=3, buffer_size=1).with_format("torch"), batch_size=2)


def hf_shuffled():
    rows = datasets.Dataset.from_list(ROWS).to_iterable_dataset(num_shards=4)
    return DataLoader(rows.shuffle(seed=3, buffer_size=8).with_format("torch"), batch_size=2)


def hf_rows():
    return datasets.Dataset.from_list(ROWS).to_iterable_dataset(num_shards=4).with_format("torch")


@pytest.mark.parametrize("factory", [hf_map, hf_stream, hf_rows])
@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_datasets_of_hugging_face_resume_at_every_step(factory, multiprocessing):
    def new():
        return ShmDataLoader(0, factory, 2, multiprocessing=multiprocessing)

    loader = new()
    found, states = [], [loader.state_dict()]
    for _ in range(2):
        for microbatch in loader:
            found.append(microbatch["id"].tolist())
            states.append(loader.state_dict())
    loader.teardown()
    assert sorted(torch.tensor(found).flatten().tolist()) == sorted([*range(LENGTH)] * 2)
    steps = range(0, len(found), 4) if multiprocessing else range(len(found))
    for done in steps:
        loader = new()
        loader.load_state_dict(states[done])
        rest = []
        while len(rest) < len(found) - done:
            rest += [microbatch["id"].tolist() for microbatch in loader]
        loader.teardown()
        assert rest == found[done:], done


@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_a_shuffle_buffer_of_hugging_face_is_replayed_since_its_state_forgets_it(multiprocessing):
    def new():
        return ShmDataLoader(0, hf_shuffled, 2, multiprocessing=multiprocessing)

    loader = new()
    found = take(loader, 4)
    state = loader.state_dict()
    loader.teardown()
    loader = new()
    loader.load_state_dict(state)
    with pytest.warns(UserWarning, match="read again"):
        found += ids(loader)
    loader.teardown()
    assert sorted(torch.tensor(found).flatten().tolist()) == [*range(LENGTH)]
