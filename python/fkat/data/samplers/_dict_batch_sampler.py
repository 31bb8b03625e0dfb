"""`DictBatchSampler`: batches of indices from several samplers, mixed by a strategy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar, runtime_checkable

from fkat.data import _arguments as arguments
from fkat.data._parts import set_epoch_of
from fkat.data.samplers._turns import Turns, checked_strategy, count_turns
from fkat.data.samplers.strategies import SamplerStrategy

__all__ = ["DictBatchSampler", "SizedSampler"]

T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class SizedSampler(Protocol[T_co]):
    """A sampler that knows how much it gives in an epoch."""

    def __len__(self) -> int:
        """Items in an epoch."""

    def __iter__(self) -> Iterator[T_co]:
        """The items of an epoch."""


class DictBatchSampler:
    """Batches of indices from several samplers, each with its sampler's name.

    The ``batch_sampler`` of a ``DataLoader`` over a `fkat.data.datasets.DictDataset`. An exhausted
    sampler is skipped; the epoch ends when all are exhausted, or when the strategy ends.

    Each ``iter()`` is the next epoch, unless ``set_epoch`` was called. Samplers with ``set_epoch``
    are told the epoch before they are iterated.

    Args:
        strategy: Whose turn it is: an iterable of names.
        samplers: By name; each gives lists of indices into the data set of that name.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The strategy names no sampler, or one of them is known never to be named.

    Iterating raises ``ValueError`` for a name that is no sampler's, and ``RuntimeError`` when only
    exhausted samplers are named, a million times in a row.
    """

    def __init__(
        self, strategy: SamplerStrategy, samplers: dict[str, SizedSampler[list[int]]]
    ) -> None:
        if not isinstance(samplers, Mapping) or not samplers:
            raise TypeError(f"samplers must be a dict of at least one sampler, got {samplers!r}")
        for name, sampler in samplers.items():
            if not isinstance(name, str) or not isinstance(sampler, SizedSampler):
                raise TypeError(
                    f"samplers must be a dict of name: sampler (with len() and iter()), got "
                    f"{name!r}: {sampler!r}"
                )
        self._samplers = dict(samplers)
        self._strategy = checked_strategy(strategy, self._samplers)
        self._next_epoch = 0

    def __len__(self) -> int:
        """Batches in an epoch: those of all samplers that are drawn from."""
        lengths = {name: len(sampler) for name, sampler in self._samplers.items()}
        return count_turns(self._strategy, lengths)

    def __iter__(self) -> Iterator[tuple[str, list[int]]]:
        """The batches of the next epoch: name and indices."""
        epoch = self._next_epoch
        self.set_epoch(epoch)
        self._next_epoch = epoch + 1
        return self._iterate(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Make the next ``iter()`` that of ``epoch``, from 0."""
        self._next_epoch = arguments.integer("epoch", epoch, minimum=0, maximum=2**63 - 1)
        for sampler in self._samplers.values():
            set_epoch_of(sampler, epoch)

    def _iterate(self, epoch: int) -> Iterator[tuple[str, list[int]]]:
        iterators = {name: iter(sampler) for name, sampler in self._samplers.items()}
        turns = Turns(self._strategy, self._samplers, self._samplers, epoch)
        while True:
            try:
                batch = turns.next_of(iterators)
            except StopIteration:
                return
            yield batch
