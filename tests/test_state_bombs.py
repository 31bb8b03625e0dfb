"""A state that names code runs none."""

from __future__ import annotations

import functools
import io
import os
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from fkat.data import ShardedDataLoader, ShmDataLoader
from fkat.data.errors import StateError
from tests.sources import StatefulStream
from tests.tampered import saved_by_torch, state_of, stream_loader, streamed

WITNESS = Path(tempfile.gettempdir()) / f"fkat_security_{os.getpid()}"


class Bomb:
    """Says where it was unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(WITNESS),)


@pytest.fixture
def assert_nothing_ran():
    yield
    has_run = WITNESS.exists()
    if has_run:
        WITNESS.rmdir()
    assert not has_run


def zipped(pickled: bytes) -> bytes:
    """In the container of torch.save."""
    file = io.BytesIO()
    torch.save({"position": 3}, file)
    damaged = io.BytesIO()
    with zipfile.ZipFile(file) as saved, zipfile.ZipFile(damaged, "w") as written:
        for name in saved.namelist():
            is_pickle = name.endswith("/data.pkl")
            written.writestr(name, pickled if is_pickle else saved.read(name))
    return damaged.getvalue()


def saved_as_before_zip(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


BOMBS = {
    "a pickle": pickle.dumps(Bomb()),
    "a pickle among plain values": pickle.dumps({"position": 3, "more": [Bomb()]}),
    "text opcodes": pickle.dumps(Bomb(), protocol=0),
    "in a container of torch": saved_by_torch({"position": Bomb()}),
    "in an old container of torch": saved_as_before_zip({"position": Bomb()}),
    "instead of what is in a container of torch": zipped(pickle.dumps(Bomb())),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.usefixtures("assert_nothing_ran")
def test_a_state_of_the_inner_loader_that_names_code_runs_none(bomb, strict):
    state = state_of(stream_loader(multiprocessing=False))
    loader = stream_loader(multiprocessing=False)
    with pytest.raises(StateError, match="inner loader cannot be read"):
        loader.load_state_dict({**state, "inner": BOMBS[bomb]}, strict=strict)
    assert int(next(loader)[0][0]) == 0


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.usefixtures("assert_nothing_ran")
def test_nor_does_one_of_a_shard(bomb):
    shards = functools.partial(ShardedDataLoader, 7, ["a"], lambda _: streamed(), 0)
    state = state_of(shards(multiprocessing=False))
    text = repr(state["dealings"])
    assert "b'PK" in text, "the state of the inner loader was expected in the dealings"
    with pytest.raises(StateError):
        shards(multiprocessing=False).load_state_dict(
            {**state, "dealings": replaced_bytes(state["dealings"], BOMBS[bomb])}
        )


def replaced_bytes(value: Any, by: bytes) -> Any:
    if isinstance(value, list):
        return [replaced_bytes(item, by) for item in value]
    return by if isinstance(value, bytes) else value


def test_the_bombs_of_these_tests_go_off_where_they_are_unpickled():
    for bomb in ("a pickle", "text opcodes"):
        pickle.loads(BOMBS[bomb])
        WITNESS.rmdir()
    for bomb in BOMBS:
        if "container" in bomb:
            torch.load(io.BytesIO(BOMBS[bomb]), weights_only=False)
            WITNESS.rmdir()


class KeepsBytes(StatefulStream):
    """A user's dataset in whose state there are bytes."""

    def state_dict(self):
        return {"position": self.position, "bytes": BOMBS["a pickle"]}


@pytest.mark.usefixtures("assert_nothing_ran")
def test_bytes_within_a_state_are_handed_to_the_user_as_they_are():
    def factory() -> DataLoader:
        return DataLoader(KeepsBytes(), batch_size=3)

    loader = ShmDataLoader(7, factory, 2, multiprocessing_context="fork")
    state = state_of(loader)
    loader = ShmDataLoader(7, factory, 2, multiprocessing_context="fork")
    loader.load_state_dict(state)
    assert int(next(loader)[0][0]) == 9
