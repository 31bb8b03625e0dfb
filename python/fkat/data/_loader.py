"""What every loader with a feed does: epochs, positions, and going on where another stopped."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.context import BaseContext
from typing import Any, Generic, TypeVar

import torch

from fkat.data import _arguments as arguments
from fkat.data._current_feed import CurrentFeed
from fkat.data._options import ring_options
from fkat.data._place import Place, Standing, place_of, standing_at
from fkat.data._restarts import Restarts
from fkat.data._source.fingerprint import Description
from fkat.data._source.note import Described, Event, Mark, Marked, Notice
from fkat.data._transport.feed import Feed, LoaderStats
from fkat.data._transport.work import Work
from fkat.data.errors import CorruptSegmentError, DeviceError, ProducerDiedError, StalledError

T_co = TypeVar("T_co", covariant=True)

INT64_MAX = 2**63 - 1  # what a seed is derived from


class FedLoader(ABC, Generic[T_co]):
    """Its own iterator over the microbatches of a feed.

    ``iter()`` begins the next epoch if the current one has delivered anything, begins an epoch that
    failed again; it starts what makes microbatches, and does nothing else: so it may be called as
    often as one likes.
    """

    def __init__(
        self,
        seed: int,
        dataloader_factory: Callable[..., Iterable[T_co]],
        num_microbatch_prefetches: int,
        dp_rank: int,
        profiler: Any,
        device: torch.device | None,
        multiprocessing: bool,
        multiprocessing_context: str | BaseContext | None,
        timeout: float,
        memory_budget_nbytes: int | None,
        max_microbatch_nbytes: int,
        device_prefetch: int,
        max_restarts: int,
    ) -> None:
        self._seed = arguments.integer("seed", seed)
        self._factory = arguments.function("dataloader_factory", dataloader_factory)
        self._dp_rank = arguments.integer("dp_rank", dp_rank, minimum=0, maximum=INT64_MAX)
        self._profiler = arguments.profiler("profiler", profiler)
        self._options = ring_options(
            num_microbatch_prefetches,
            multiprocessing_context,
            timeout,
            memory_budget_nbytes,
            max_microbatch_nbytes,
            device_prefetch,
        )
        self._device = arguments.device("device", device)
        self._multiprocessing = arguments.boolean("multiprocessing", multiprocessing)
        self._restarts = Restarts(arguments.integer("max_restarts", max_restarts, minimum=0))
        self._current = CurrentFeed(self._multiprocessing)
        self._is_strict = True  # whether data that differs from a state's is an error
        self._resume: Place | None = None  # the place that was loaded, while in its epoch
        self._described: Description = ()
        self._wanted_epoch: int | None = None  # by set_epoch(), for the next pass
        self._prepared: int | None = None  # the next pass's epoch, when that is begun already
        self._begin(Place(0))

    _epoch: int  # of the current pass; that of the place may be the next
    _at: Standing
    _taken: Marked | None  # from the feed and not yet counted: an interrupt came between
    _event: Event | None  # likewise, not yet heeded
    _has_delivered: bool  # anything, in this pass
    _is_over: bool  # the epoch's last microbatch was delivered
    _has_failed: bool

    @abstractmethod
    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Go on where another loader of the same data stopped."""

    @abstractmethod
    def _work(self, begin: Place | None) -> Work:
        """What to produce; epoch ``begin.epoch`` from that place on."""

    @abstractmethod
    def _open_feed(self, begin: Place | None) -> Feed:
        """A feed of that work."""

    @abstractmethod
    def _snapshot_of(self, at: Standing) -> Callable[[], dict[str, Any]]:
        """A function that writes the state dict of a place, also when the loader has moved on."""

    def __iter__(self) -> Iterator[T_co]:
        """Begin the next epoch, unless the current one has delivered nothing yet."""
        self.leave_epoch()
        self.prepare()
        return self

    def leave_epoch(self) -> None:
        """What ``iter()`` does, but for starting anything."""
        if self._has_begun():
            self._restart(self._following_epoch())

    def prepare(self) -> None:
        """Start the producers, so that the first microbatches are made before they are asked for.

        Behind the last microbatch of an epoch this begins the next one, with which ``iter()`` goes
        on; within an epoch it does nothing. It waits for nothing, and raises nothing: ``next()``
        raises what goes wrong. Nothing is made ahead with ``multiprocessing=False``.
        """
        if not self._multiprocessing:
            return
        is_at_end = self._is_over or self._at[0].epoch != self._epoch
        if is_at_end or not self._has_delivered:
            with suppress(Exception):  # met again by next()
                if is_at_end:
                    self._prepare_next()
                else:
                    self._current_feed()

    def __next__(self) -> T_co:
        """The next microbatch of the epoch."""
        if self._has_failed:
            raise RuntimeError("this epoch has failed; iter() begins it again")
        if self._is_over:
            raise StopIteration
        try:
            if self._taken is None:
                self._taken = self._next_microbatch()
            microbatch, mark = self._taken
            if self._restarts.num_in_a_row:
                self._restarts.progress()
            base, count, _, limit = self._at
            at: Standing = base, count + 1, mark, limit
            if mark >= limit:
                at = standing_at(base.behind(mark, count + 1))
                self._reach(mark)
        except StopIteration:
            self._is_over = True
            self._at = standing_at(Place(self._epoch + 1))
            raise
        except Exception as error:
            self._fail(error)
            raise
        # No call between these: an interrupt finds all of them done, or none.
        self._taken = None
        self._has_delivered = True
        self._at = at
        return microbatch  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        """Where the next microbatch stands, in plain types under fixed keys. Starts nothing."""
        return self.snapshot()()

    def snapshot(self, next_epoch: bool = False) -> Callable[[], dict[str, Any]]:
        """The present position in a microsecond; the result is `state_dict` as it is now.

        Args:
            next_epoch: The beginning of the epoch after the present one instead.
        """
        return self._snapshot_of(standing_at(Place(self._epoch + 1)) if next_epoch else self._at)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of ``epoch``; a pass that has delivered something goes on."""
        epoch = arguments.integer("epoch", epoch, minimum=0, maximum=INT64_MAX)
        if self._has_begun():
            self._wanted_epoch = epoch
        elif epoch != self._epoch:
            self._restart(epoch)

    def set_device(self, device: torch.device | None) -> None:
        """Deliver tensors on ``device`` from the next microbatch on; None: in host memory."""
        self._device = arguments.device("device", device)

    def stats(self) -> LoaderStats:
        """What was delivered, and how long ``next()`` waited for it, since the producer started.

        A producer that took the place of a dead one goes on counting; `teardown` begins anew.
        """
        return self._current.stats()

    def teardown(self, *_: Any) -> None:
        """Stop the producer, and with it the current epoch. ``iter()`` starts anew."""
        self._is_over = self._has_delivered
        self._stop_feed()

    def on_exception(self, exception: BaseException) -> None:
        """Stop the producer: the training loop has failed."""
        del exception
        self.teardown()

    def _reach(self, mark: Mark) -> None:
        """Called where the place behind a microbatch is worked out; perhaps again, for the same."""

    def _resume_at(self, place: Place, described: Description) -> None:
        """Make the next microbatch the one at ``place``."""
        self._stop_feed()
        self._resume = place
        self._described = described
        self._begin(place)

    def _has_begun(self) -> bool:
        return self._has_delivered or self._is_over or self._has_failed

    def _restart(self, epoch: int) -> None:
        self._resume = self._resume_in(epoch)
        if not self._current.can_begin(epoch, self._resume):
            self._stop_feed()
        self._begin(self._resume or Place(epoch))

    def _resume_in(self, epoch: int) -> Place | None:
        resume = self._resume
        return resume if resume is not None and resume.epoch == epoch else None

    def _following_epoch(self) -> int:
        if self._wanted_epoch is not None:
            return self._wanted_epoch
        return self._epoch if self._has_failed else self._epoch + 1

    def _prepare_next(self) -> None:
        """Have the next epoch begun, while this one stays where it is: at its end."""
        self._is_over = True
        epoch = self._following_epoch()
        resume = self._resume_in(epoch)
        if self._prepared == epoch or not self._current.can_begin(epoch, resume):
            return
        self._prepared = None
        self._current.leave()
        self._current.enter(epoch, self._open_feed, lambda: resume)
        self._prepared = epoch

    def _begin(self, place: Place) -> None:
        self._epoch = place.epoch
        self._at = standing_at(place)
        self._wanted_epoch = None
        if self._prepared != place.epoch:
            self._current.leave()
        self._prepared = None
        self._taken = None
        self._event = None
        self._has_delivered = False
        self._is_over = False
        self._has_failed = False

    @property
    def _place(self) -> Place:
        return place_of(self._at)

    def _take_note(self, event: Event) -> None:
        if isinstance(event, Notice):
            warnings.warn(event.text, stacklevel=4)
        elif isinstance(event, Described):
            self._described = event.source
        elif self._place.epoch == self._epoch:  # a shard was done, the epoch is not
            self._at = standing_at(Place(self._epoch, self._at[1], event.shard + 1))

    def _next_microbatch(self) -> Marked:
        while True:
            try:
                if self._event is not None:
                    self._take_note(self._event)
                    self._event = None
                feed = self._current.in_pass(self._epoch)
                if feed is None:
                    feed = self._current.enter(self._epoch, self._open_feed, self._present)
                taken = feed.next(self._device, self._at[1])
                if taken[1] is not None:  # no call on its way: see __next__
                    return taken
                self._event = taken[0]
            except ProducerDiedError as death:
                self._replace_producer(death)
                if self._is_over:  # it had published the last one
                    raise StopIteration from None
            except Exception:
                raise
            except BaseException:  # an interrupt
                if not self._multiprocessing:
                    # It ended the user's code, which ran here: begun again where this stands.
                    self._stop_feed()
                raise

    def _length(self) -> int | None:
        while True:
            try:
                return self._current_feed().length()
            except ProducerDiedError as death:
                self._replace_producer(death)

    def _replace_producer(self, death: ProducerDiedError) -> None:
        """Have another one go on with the first microbatch that the dead one did not publish.

        It does so as a resumed run would: it delivers what the dead one would have delivered.

        Raises:
            ProducerDiedError: There were too many restarts without a microbatch between them.
        """
        place = self._place
        self._restarts.count(death, f"microbatch {place.microbatch} of epoch {place.epoch}")
        self._is_over = self._is_over or place.epoch != self._epoch
        begin = None if self._is_over else self._present()
        self._at = standing_at(place)
        try:
            if self._is_over:
                self._leave_pass()  # the new one knows nothing of it: len() begins it again
            if self._multiprocessing:
                self._current.replace(self._work(begin), begin, goes_on=not self._is_over)
            else:
                self._stop_feed()  # the death is one in user code
        except BaseException as error:
            self._stop_feed()  # asked again, we open another at this place
            if not isinstance(error, ProducerDiedError):
                raise

    def _present(self) -> Place | None:
        """Where a producer that is started now begins; None for the beginning of any epoch."""
        return self._resume if self._place == Place(self._epoch) else self._place

    def _current_feed(self) -> Feed:
        epoch = self._epoch if self._prepared is None else self._prepared
        return self._current.enter(epoch, self._open_feed, self._present)

    @property
    def _feed(self) -> Feed | None:
        return self._current.feed

    def _leave_pass(self) -> None:
        self._prepared = None
        self._current.leave()

    def _stop_feed(self) -> None:
        self._prepared = None
        self._taken = None
        self._event = None
        self._current.stop()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, StalledError | torch.cuda.OutOfMemoryError):
            return  # nothing is lost: asking again waits, or tries, again
        if isinstance(error, ProducerDiedError | CorruptSegmentError | DeviceError):
            self.teardown()
        self._has_failed = True
