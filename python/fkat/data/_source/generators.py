"""Generators that the user gave to a ``DataLoader`` or its sampler, as each epoch finds them.

Such a generator lives on from epoch to epoch. So that an epoch can be run again, or be the first of
a resumed run, it is brought to where it would be after all the epochs before.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils.data import DataLoader

_States = tuple[torch.Tensor, ...]


class EpochGenerators:
    """The generators of one loader, which has not been iterated yet."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._generators = generators_of(loader)
        self._first = self._states()
        self._latest: tuple[int, _States] = (0, self._first)

    def enter(self, epoch: int, draw_epoch: Callable[[int], None]) -> None:
        """Bring them to the beginning of ``epoch``.

        Args:
            epoch: From 0.
            draw_epoch: Draws all the indices of an epoch, to go past it.
        """
        if not self._generators:
            return
        begin, states = self._latest if self._latest[0] <= epoch else (0, self._first)
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)
        for earlier in range(begin, epoch):
            draw_epoch(earlier)
        self._latest = (epoch, self._states())

    def leave(self, epoch: int) -> None:
        """All the indices of ``epoch`` have been drawn."""
        if self._generators:
            self._latest = (epoch + 1, self._states())

    def _states(self) -> _States:
        return tuple(generator.get_state() for generator in self._generators)


def generators_of(loader: DataLoader[Any]) -> list[torch.Generator]:
    """Those of the loader and of its samplers, each once."""
    owners = (loader, loader.sampler, loader.batch_sampler)
    inner = getattr(loader.batch_sampler, "sampler", None)
    found = (getattr(owner, "generator", None) for owner in (*owners, inner))
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _reduce(generator: torch.Generator) -> tuple[Callable[..., Any], tuple[str, bytes]]:
    return _rebuild, (str(generator.device), generator.get_state().numpy().tobytes())


def _rebuild(device: str, state: bytes) -> torch.Generator:
    generator = torch.Generator(device)
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return generator


# torch pickles a generator with its state as a tensor in shared memory, and drops that tensor
# before a process that is started by spawn or forkserver has received it.
ForkingPickler.register(torch.Generator, _reduce)
