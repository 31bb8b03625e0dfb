"""Loaders of other libraries that can save their state, with the methods of ours."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from fkat.data import _state
from fkat.data._parts import set_epoch_of
from fkat.data._source.stateful import why_not_plain

_KEYS: dict[str, _state.Kind] = {"epoch": int, "is_cut": bool, "loader": (dict, type(None))}
_KIND = "Foreign"


class Foreign:
    """A stateful loader such as ``torchdata.stateful_dataloader.StatefulDataLoader``.

    It goes on exactly within an epoch. The epoch after a finished one is as the loader makes it:
    what orders by ``set_epoch`` (the loader, its dataset or a sampler) is told the right epoch; the
    order of a ``RandomSampler`` is drawn from torch's global generator, as without a resume.

    Args:
        loader: An iterable with ``state_dict()`` and ``load_state_dict(state)``.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._epoch = 0
        self._pass: Iterator[Any] | None = None
        self._num_delivered = 0
        self._is_exhausted = False
        self._restored = _new_state(0, False, None)
        if hasattr(loader, "__len__"):
            self.__class__ = _SizedForeign

    def __iter__(self) -> Iterator[Any]:
        """Begin the next epoch if this one has delivered anything since it was restored."""
        if self._num_delivered > 0 or self._is_exhausted:
            self._begin_epoch(self._epoch + 1)
        self._iterate()
        return self

    def __next__(self) -> Any:
        """The next microbatch of the epoch."""
        try:
            microbatch = next(self._iterate())
        except StopIteration:
            self._is_exhausted = True
            raise
        self._num_delivered += 1
        return microbatch

    def prepare(self) -> None:
        """Do nothing: such a loader makes microbatches ahead only while it is iterated."""

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, in the loader's own terms; and the epoch."""
        return self.snapshot()()

    def snapshot(self, next_epoch: bool = False) -> Callable[[], dict[str, Any]]:
        """The present position, or the beginning of the next epoch."""
        state = self._restored
        if self._pass is not None:  # asking a loader that was not iterated may start its workers
            inner = copy.deepcopy(self.loader.state_dict())
            is_cut = next_epoch and not self._is_exhausted
            state = _new_state(self._epoch + next_epoch, is_cut, inner)
        return lambda: _warned_of(state, type(self.loader).__name__)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Go on from a state.

        Raises:
            StateError: It is no state of this class and version.
        """
        del strict  # the loader knows no such thing
        if not state_dict:
            return
        _state.check(state_dict, _KIND, _KEYS)
        inner = state_dict["loader"]
        if state_dict["is_cut"] and inner is not None:
            self._leave_epoch(state_dict["epoch"] - 1, inner)
        elif inner is not None:
            self.loader.load_state_dict(copy.deepcopy(inner))
        self._begin_epoch(state_dict["epoch"])
        self._restored = state_dict

    def release(self) -> None:
        """Let go of its workers, as Lightning does with a ``DataLoader`` that it sees."""
        self._end_pass()
        if getattr(self.loader, "_iterator", None) is not None:
            _shut_down(self.loader._iterator)
            self.loader._iterator = None

    def _leave_epoch(self, epoch: int, inner: dict[str, Any]) -> None:
        """Take the loader over the end of an epoch of which the trainer needs no more.

        A loader with a length was not asked for more than that, so it does not know that it is at
        its end. One whose epoch was cut short gives a microbatch more, and is then begun anew.
        """
        self.loader.load_state_dict(copy.deepcopy(inner))
        self._begin_epoch(epoch)
        next(self._iterate(), None)

    def _begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._end_pass()
        self._num_delivered = 0
        self._is_exhausted = False
        self._restored = _new_state(epoch, False, None)

    def _end_pass(self) -> None:
        ended, self._pass = self._pass, None
        if not getattr(self.loader, "persistent_workers", False):
            _shut_down(ended)

    def _iterate(self) -> Iterator[Any]:
        if self._pass is None:
            set_epoch_of(self.loader, self._epoch)
            self._pass = iter(self.loader)
        iterator: Iterator[Any] = self._pass
        return iterator


def _new_state(epoch: int, is_cut: bool, inner: dict[str, Any] | None) -> dict[str, Any]:
    return {**_state.header(_KIND), "epoch": epoch, "is_cut": is_cut, "loader": inner}


def _warned_of(state: dict[str, Any], name: str) -> dict[str, Any]:
    if reason := why_not_plain(state):
        warnings.warn(
            f"the state of {name} is not of plain types, so that the checkpoint can be loaded with "
            f"weights_only=False only: {reason}",
            stacklevel=2,
        )
    return state


def _shut_down(iterator: Any) -> None:
    """End the workers of a ``DataLoader``'s iterator now, not when it is collected as garbage."""
    if callable(stop := getattr(iterator, "_shutdown_workers", None)):
        stop()


class _SizedForeign(Foreign):
    """With a length, where the loader has one."""

    def __len__(self) -> int:
        return len(self.loader)


def as_resumable(loader: Any, wraps_torch: bool) -> Any:
    """A loader whose position can be remembered; None if it has none, or none that we may use.

    Args:
        loader: Whatever a factory returned.
        wraps_torch: Whether a torch ``DataLoader`` may be hidden in a `Foreign`.
    """
    if isinstance(loader, _state.Resumable):
        return loader
    if not (isinstance(loader, _state.PersistStates) and isinstance(loader, _state.RestoreStates)):
        return None
    return Foreign(loader) if wraps_torch or not isinstance(loader, DataLoader) else None
