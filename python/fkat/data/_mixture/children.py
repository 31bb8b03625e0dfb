"""The kinds of loaders in a mixture: each is put back where it stood in the way that it allows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from fkat.data import _state as state
from fkat.data._mixture.child import Child, Record
from fkat.data._mixture.replay import replay
from fkat.data._parts import set_epoch_of
from fkat.data._source.stateful import dump_plain, load_plain, why_not_plain
from fkat.data.errors import StateError
from fkat.data.samplers._turns import listed

KIND = "DictDataLoader"  # whose states these are

_KEYS: dict[str, state.Kind] = {
    "epoch": int,
    "microbatch": int,
    "draws": int,
    "strategy": str,
    "dataloaders": dict,
}


class ResumableChild(Child):
    """A loader of this package: knows its epoch, and its state costs nothing until needed."""

    kind = dict
    _epoch: int  # of the pass that was begun

    def restart(self, epoch: int) -> None:
        super().restart(epoch)
        set_epoch_of(self.loader, epoch)
        self.loader.leave_epoch()

    def prepare(self) -> None:
        self.loader.prepare()

    def is_finished(self, record: Record) -> bool:
        return bool(record["is_over"])  # its len() would start a producer

    def _fetch(self, microbatches: Iterator[Any]) -> None:
        self.capture(self._epoch, leaves=False)  # the loader will stand behind what is not taken
        super()._fetch(microbatches)

    def _begin(self, epoch: int) -> Iterator[Any]:
        self._epoch = epoch
        # One that had no turn in the epoch before was loaded with that epoch.
        set_epoch_of(self.loader, epoch)
        microbatches: Iterator[Any] = iter(self.loader)
        return microbatches

    def _capture(self, epoch: int, leaves: bool) -> Callable[[], Record]:
        # Past its last microbatch it stands in the next epoch already.
        snapshot = self.loader.snapshot(next_epoch=leaves and not self._is_over)
        if leaves:
            return lambda: _record(0, False, snapshot())
        return partial(self._record_of, self._count, self._is_over, epoch, snapshot)

    @staticmethod
    def _record_of(
        count: int, is_over: bool, epoch: int, snapshot: Callable[[], dict[str, Any]]
    ) -> Record:
        own = snapshot()
        return _record(count, is_over or (count > 0 and own["epoch"] > epoch), own)

    def _load(self, record: Record, epoch: int, strict: bool) -> None:
        self.loader.load_state_dict(record["state"], strict)


class StatefulChild(Child):
    """A loader of another library with a state, such as torchdata's ``StatefulDataLoader``.

    It is asked for its state only after it has delivered: before, that may start its workers, or
    tell of the pass before, where ``iter()`` is lazy.
    """

    kind = (bytes, type(None))  # torch.load(weights_only=True) refuses empty bytes

    def __init__(self, name: str, loader: Any) -> None:
        super().__init__(name, loader)
        self._kept: Callable[[], Record] | None = lambda: _record(0, False, None, is_before=True)
        self._is_put_inside = False  # a pass, and knows of no end of it

    def _fetch(self, microbatches: Iterator[Any]) -> None:
        self._kept = None
        self._is_put_inside = False
        super()._fetch(microbatches)

    def restart(self, epoch: int) -> None:
        record = self._asked() if self._kept is None else self._kept
        self._kept = lambda: self.left(record())
        super().restart(epoch)

    def check(self, record: Any) -> None:
        super().check(record)
        if record["count"] > 0 and record["state"] is None:
            raise StateError(
                f"loader {self.name!r} kept no state of its own when this state was saved, now it "
                f"is a {type(self.loader).__qualname__}, which has one"
            )

    def left(self, record: Record) -> Record:
        return {**record, "is_before": True}  # it must itself be taken over the end of its pass

    def is_finished(self, record: Record) -> bool:
        return not record["is_before"] and super().is_finished(record)

    def _begin(self, epoch: int) -> Iterator[Any]:
        if self._is_put_inside and not self._goes_on:
            set_epoch_of(self.loader, max(epoch - 1, 0))
            next(iter(self.loader) if self._microbatches is None else self._microbatches, None)
            self._is_put_inside = False
        set_epoch_of(self.loader, epoch)
        microbatches: Iterator[Any] = iter(self.loader)
        return microbatches

    def _capture(self, epoch: int, leaves: bool) -> Callable[[], Record]:
        record = self._asked() if self._kept is None else self._kept
        return (lambda: self.left(record())) if leaves else record

    def _asked(self) -> Callable[[], Record]:
        own = copy.deepcopy(self.loader.state_dict())
        return partial(self._dumped, self._count, self._is_over, own)

    def _dumped(self, count: int, is_over: bool, own: Any) -> Record:
        if why := why_not_plain(own):
            raise TypeError(
                f"the state of loader {self.name!r} ({type(self.loader).__qualname__}) cannot be "
                f"in a checkpoint: keep it to plain types and tensors ({why})"
            )
        return _record(count, is_over, dump_plain(own))

    def _load(self, record: Record, epoch: int, strict: bool) -> None:
        self._kept = lambda: record
        self._is_put_inside = record["count"] > 0 and not record["is_over"]
        if record["state"] is None:
            return
        try:
            own = load_plain(record["state"])
        except Exception as error:
            raise StateError(
                f"the state of loader {self.name!r} cannot be read: {error}"
            ) from error
        self.loader.load_state_dict(own)


class ReplayedChild(Child):
    """Whatever can only be iterated: what it has delivered is read again, and dropped."""

    kind = type(None)

    def _begin(self, epoch: int) -> Iterator[Any]:
        set_epoch_of(self.loader, epoch)
        microbatches: Iterator[Any] = iter(self.loader)
        if self._goes_on and self._count > 0:
            replay(microbatches, self._count, self.name)
        return microbatches

    def _capture(self, epoch: int, leaves: bool) -> Callable[[], Record]:
        record = _record(self._count, self._is_over, None)
        return lambda: self.left(record) if leaves else record


def _record(count: int, is_over: bool, own: Any, is_before: bool = False) -> Record:
    return {"count": count, "is_over": is_over, "is_before": is_before, "state": own}


def new_child(name: str, loader: Any) -> Child:
    """The child for a loader.

    Raises:
        TypeError: Its state can be saved but not loaded, or the reverse.
    """
    saves, loads = isinstance(loader, state.PersistStates), isinstance(loader, state.RestoreStates)
    if saves != loads:
        has, lacks = (
            ("state_dict", "load_state_dict") if saves else ("load_state_dict", "state_dict")
        )
        raise TypeError(
            f"loader {name!r} is a stateful child without {lacks}: a {type(loader).__qualname__} "
            f"with {has} must have both, or neither to be read again from its beginning"
        )
    if not saves:
        return ReplayedChild(name, loader)
    is_ours = isinstance(loader, state.Resumable)
    return ResumableChild(name, loader) if is_ours else StatefulChild(name, loader)


def check_state(state_dict: Any, children: Mapping[str, Child]) -> None:
    """Refuse what is no state of a mixture of these loaders.

    Raises:
        StateError: Says what is wrong.
    """
    state.check(state_dict, KIND, _KEYS)
    for key in ("epoch", "microbatch", "draws"):
        if not 0 <= state_dict[key] < 2**63:
            raise StateError(f"{key!r} in this state of DictDataLoader is {state_dict[key]}")
    records = state_dict["dataloaders"]
    if set(records) != set(children):
        raise StateError(
            f"this state of DictDataLoader is of the loaders {listed(records)}; here are "
            f"{listed(children)}"
        )
    for name, child in children.items():
        child.check(records[name])
