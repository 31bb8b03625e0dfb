"""Loaders whose states are tampered with."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from fkat.data import ShmDataLoader
from tests.sources import StatefulStream


class Items(Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((1000,), index)


def items(shard: str = "") -> DataLoader:
    return DataLoader(Items(), batch_size=3)


class RefusedError(Exception):
    """The user's own code does not take a state."""


class Careful(StatefulStream):
    """A user's dataset that looks at its states before it uses them."""

    def load_state_dict(self, state):
        if type(state) is not dict or type(state.get("position")) is not int:
            raise RefusedError
        super().load_state_dict(state)


def streamed() -> DataLoader:
    return DataLoader(Careful(), batch_size=3)


def stream_loader(**options: Any) -> ShmDataLoader:
    return ShmDataLoader(7, streamed, 2, **options)


def state_of(loader, num_finished: int = 3) -> dict[str, Any]:
    for _ in range(num_finished):
        next(loader)
    state: dict[str, Any] = loader.state_dict()
    loader.teardown()
    return state


def saved_by_torch(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()
