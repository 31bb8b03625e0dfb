"""A trainer to do harm to: iterates over one of the loaders, in a process of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

COUNT = 100_000


class Items(Dataset[torch.Tensor]):
    """Tensors of ``nbytes``, each filled with its index modulo 251."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(0.001)
        return torch.full((self._nbytes,), index % 251, dtype=torch.uint8)


def items(nbytes: int) -> DataLoader[torch.Tensor]:
    """Without processes of its own."""
    return DataLoader(Items(nbytes), batch_size=None)


def open_loader(name: str, nbytes: int) -> Iterable[Any]:
    """The loader called ``name``, with one process that makes microbatches."""
    if name == "DataLoader":
        return DataLoader(Items(nbytes), batch_size=None, num_workers=1)
    if name == "StatefulDataLoader":
        from torchdata.stateful_dataloader import StatefulDataLoader

        stateful: Iterable[Any] = StatefulDataLoader(Items(nbytes), batch_size=None, num_workers=1)
        return stateful
    from fkat.data import ShmDataLoader

    return ShmDataLoader(0, partial(items, nbytes), 4, multiprocessing_context="fork")


def main(name: str, nbytes: str, num_kept: str) -> None:
    """Print "ready" after some microbatches, keep some of the later ones, and train for ever."""
    kept: list[torch.Tensor] = []
    for number, microbatch in enumerate(open_loader(name, int(nbytes))):
        if int(microbatch[-1]) != number % 251:
            print("wrong microbatch", number, flush=True)
        if number == 10:
            print("ready", flush=True)
        if len(kept) < int(num_kept):
            kept.append(microbatch)
            if len(kept) == int(num_kept):
                print("kept", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
