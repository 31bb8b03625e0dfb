"""Generators that the user gave to a ``DataLoader`` or its sampler, as each epoch finds them.

Such a generator lives on from epoch to epoch. So that an epoch can be run again, or be the first of
a resumed run, it is brought to where it would be after all the epochs before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

_States = tuple[torch.Tensor, ...]


class EpochGenerators:
    """The generators of one loader, which has not been iterated yet."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        owners = (loader, loader.sampler, loader.batch_sampler)
        inner = getattr(loader.batch_sampler, "sampler", None)
        found = (getattr(owner, "generator", None) for owner in (*owners, inner))
        self._generators = {id(g): g for g in found if isinstance(g, torch.Generator)}.values()
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
