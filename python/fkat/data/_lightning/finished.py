"""What Lightning iterates in place of a training loader, to know what it has finished.

The trainer fetches ahead: one microbatch when it does not know their number, and another that is
lost when a step fails. A loader knows only what it delivered. So the position before each delivery
is remembered until the trainer has finished it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from fkat.data._lightning import trainer as _lightning
from fkat.data._lightning.foreign import Foreign
from fkat.data._transport.interruption import asking
from fkat.data.errors import ProducerDiedError, StalledError

# Deliveries that may be unfinished. The trainer needs two; a training_step that takes its
# microbatches itself (``dataloader_iter``) may run this far ahead.
_MAX_AHEAD = 64

_serial = itertools.count()


class Finished:
    """A loader whose state is that of what the trainer has finished.

    To Lightning it is an iterable with an empty state, so that Lightning neither warns nor restores
    a position of its own; and it has none of the attributes that Lightning acts on (``dataset``,
    ``sampler``, ``_iterator``, ``worker_init_fn``).

    Args:
        loader: Has the methods of `fkat.data._state.Resumable`.
        trainer: What fits.

    Attributes:
        loader: The loader itself.
        trainer: What fits.
        serial: Counts these in a process; the same on each rank, for ranks build theirs alike.
        is_elastic: Whether the state restored last is for any number of ranks.
    """

    def __init__(self, loader: Any, trainer: Trainer) -> None:
        self.loader = loader
        self.serial = next(_serial)
        self.trainer = trainer
        self._asking = asking(partial(_lightning.stop_if_told_to, trainer))
        self._action = f"[fkat][train]{_name(loader)}.wait"
        self._base = _lightning.num_finished(trainer)
        self._pass: Iterator[Any] | None = None
        self._before: deque[Callable[[], dict[str, Any]]] = deque(maxlen=_MAX_AHEAD)
        self._fetched_at: Callable[[], dict[str, Any]] | None = None  # by a fetch under way
        self._num_delivered = 0
        self._is_exhausted = False
        self._is_in_last_epoch = False
        self._has_counted = False
        self.is_elastic = False
        self._stop_reloading: Callable[[], None] = _do_nothing
        if hasattr(loader, "__len__"):
            self.__class__ = _SizedFinished

    def __iter__(self) -> Iterator[Any]:
        """Begin the next epoch if this one has been trained on; else begin it again.

        Lightning calls this up to three times before it trains, and may drop what it fetched in
        between. The loader itself is asked to begin by the first ``next()`` only.
        """
        if self._before and self._num_finished() == 0:
            self.loader.load_state_dict(self._before[0]())
        elif self._before or self._is_exhausted:
            self._base = _lightning.num_finished(self.trainer)
        self._begin_pass()
        return self

    def __next__(self) -> Any:
        """The next microbatch of the epoch."""
        if self._pass is None:
            self._pass = iter(self.loader)
            self._is_in_last_epoch = _lightning.is_in_last_epoch(self.trainer)
        self._num_finished()  # sees every count, so as to know a wrong one
        before = self._fetched_at = self.loader.snapshot()
        profiler = _lightning.profiler(self.trainer)
        try:
            # Not profile(), which does the same: its generator takes as long as a short wait.
            profiler.start(self._action)
            with self._asking:
                microbatch = next(self._pass)
        except StopIteration:
            self._fetched_at = None
            self._is_exhausted = True
            self.prepare()
            raise
        except (StalledError, ProducerDiedError) as error:
            # A scheduler may send SIGTERM to the producer, too. The trainer ends in its own way.
            if _lightning.was_told_to_stop(self.trainer):
                raise SIGTERMException from error
            raise
        finally:
            profiler.stop(self._action)
        # No call before the last of these: an interrupt finds all of them done, or none.
        self._num_delivered += 1
        self._fetched_at = None
        self._before.append(before)
        self.prepare()
        return microbatch

    def prepare(self) -> None:
        """Have the first microbatches made while the trainer does other things.

        Behind the last microbatch of an epoch these are the next one's: they are made while the
        trainer steps, validates and saves. The loader stands where it stood, and so does
        `position`.
        """
        if not (self._num_delivered and self._is_in_last_epoch):
            self.loader.prepare()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module keeps the state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, likewise."""

    def stats(self) -> Any:
        """The loader's own."""
        return self.loader.stats()

    def position(self) -> dict[str, Any]:
        """The loader's state after what the trainer has finished.

        Raises:
            RuntimeError: The trainer has finished more, or lags more, than can be accounted for.
        """
        num_finished = self._num_finished()
        num_ahead = self._num_delivered - num_finished
        if not 0 <= num_ahead <= len(self._before):
            raise RuntimeError(
                f"the trainer has finished {num_finished} microbatches of this epoch and the "
                f"training loader delivered {self._num_delivered}: between 0 and "
                f"{_MAX_AHEAD} may be under way. Is anything else iterating the training loader?"
            )
        is_over = _lightning.has_finished_epoch(self.trainer) or (
            self._is_exhausted and num_ahead == 0
        )
        if num_finished > 0 and is_over:
            memory = self.loader.snapshot(next_epoch=True)
        elif num_ahead:
            memory = self._before[-num_ahead]
        else:
            # What an interrupted fetch may have taken from the loader, the trainer never got.
            memory = self._fetched_at or self.loader.snapshot()
        state: dict[str, Any] = memory()
        return state

    def restore(self, state: dict[str, Any], num_finished: int, strict: bool) -> None:
        """Go on from a state, the trainer's count being ``num_finished`` or about to be."""
        self.loader.load_state_dict(state, strict=strict)
        self._base = num_finished
        self._begin_pass()
        self.is_elastic = hasattr(self.loader, "merge_state_dicts") or is_dealt(state)
        self._stop_reloading()
        if is_dealt(state) and state["microbatch"] > 0 and hasattr(self, "__len__"):
            # Another number of ranks may have begun this epoch: then it is longer or shorter than
            # those to come, and the trainer looks at the length of a new loader only.
            self._stop_reloading = _lightning.reload_before_next_epoch(self.trainer)

    def release(self) -> None:
        """Let go of what the pass holds: the loader is about to be torn down."""
        self._pass = None
        self._stop_reloading()
        if isinstance(self.loader, Foreign):
            self.loader.release()

    def _begin_pass(self) -> None:
        self._pass = None
        self._before.clear()
        self._fetched_at = None
        self._num_delivered = 0
        self._is_exhausted = False
        self._has_counted = False

    def _num_finished(self) -> int:
        """Of this pass."""
        num_finished = _lightning.num_finished(self.trainer) - self._base
        if num_finished < 0:
            return 0  # the trainer's counts are yet to be restored
        if num_finished > self._num_delivered and not self._has_counted:
            # They were restored just now, from a checkpoint that has no state for us.
            self._base += num_finished
            return 0
        self._has_counted = self._has_counted or num_finished > 0
        return num_finished


class _SizedFinished(Finished):
    """With a length; only if the loader has one, for ``len()`` says so by being there."""

    def __len__(self) -> int:
        return len(self.loader)


def is_dealt(state: Any) -> bool:
    """Whether the loader whose state this is deals the rest of its epoch to any number of ranks."""
    if not isinstance(state, dict):
        return False  # of a loader of another library in a mixture
    kind = state.get("class")
    if kind == "DictDataLoader":
        return all(is_dealt(child["state"]) for child in state["dataloaders"].values())
    return kind == "ShardedDataLoader" or (kind == "ShmDataLoader" and state["dp_size"] is not None)


def _do_nothing() -> None:
    return


def _name(loader: Iterable[Any]) -> str:
    return type(getattr(loader, "loader", loader)).__name__
