"""What every loader with a feed does: epochs, positions, and going on where another stopped."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import BaseContext
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch

from fkat.data import _arguments as arguments
from fkat.data._restarts import Restarts
from fkat.data._source.fingerprint import NO_TRAIL, Description, Trail
from fkat.data._source.note import Delivered, Described, Ends, Event, Mark, Notice, WorkerPlace
from fkat.data._transport.feed import Feed, LoaderStats, ProcessFeed
from fkat.data._transport.producer_feed import MAX_LEASES, RingOptions
from fkat.data._transport.work import Work
from fkat.data.errors import CorruptSegmentError, DeviceError, ProducerDiedError, StalledError

T_co = TypeVar("T_co", covariant=True)

INT64_MAX = 2**63 - 1  # what a seed is derived from
MAX_PREFETCHES = 4000


class Place(NamedTuple):
    """Where the next microbatch stands.

    Attributes:
        epoch: Its epoch.
        microbatch: How many of the epoch this rank has had.
        shard: Number of the shard among those of this rank; 0 where there are no shards.
        trail: Digests of what came before it in the shard (in the epoch).
        inner: State of the user's own loader, pickled; empty if it has none.
        workers: Where each worker stands, if ``microbatch`` does not say it.
    """

    epoch: int
    microbatch: int = 0
    shard: int = 0
    trail: Trail = NO_TRAIL
    inner: bytes = b""
    workers: tuple[WorkerPlace, ...] = ()


class FedLoader(ABC, Generic[T_co]):
    """Its own iterator over the microbatches of a feed.

    ``iter()`` begins the next epoch if the current one has delivered anything, begins an epoch that
    failed again, and does nothing else; so it may be called as often as one likes.
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
        self._options = RingOptions(
            num_prefetches=arguments.integer(
                "num_microbatch_prefetches",
                num_microbatch_prefetches,
                minimum=-1,
                maximum=MAX_PREFETCHES,
            ),
            max_microbatch_nbytes=arguments.integer(
                "max_microbatch_nbytes", max_microbatch_nbytes, minimum=1, maximum=1 << 40
            ),
            memory_budget_nbytes=arguments.optional_integer(
                "memory_budget_nbytes", memory_budget_nbytes, minimum=1
            ),
            context=arguments.context("multiprocessing_context", multiprocessing_context),
            timeout_s=arguments.seconds("timeout", timeout) or None,
            num_device_prefetches=arguments.integer(
                "device_prefetch", device_prefetch, minimum=0, maximum=MAX_LEASES - 1
            ),
        )
        self._device = arguments.device("device", device)
        self._multiprocessing = arguments.boolean("multiprocessing", multiprocessing)
        self._restarts = Restarts(arguments.integer("max_restarts", max_restarts, minimum=0))
        self._feed: Feed | None = None
        self._feed_begins: set[Place | None] = set()  # where its producers begin, the dead too
        self._is_strict = True  # whether data that differs from a state's is an error
        self._resume: Place | None = None  # the place that was loaded, while in its epoch
        self._described: Description = ()
        self._wanted_epoch: int | None = None  # by set_epoch(), for the next pass
        self._begin(Place(0))

    _epoch: int  # of the current pass; that of the place may be the next
    _base: Place  # the present place, or the last one that was worked out
    _mark: Mark | None  # the mark behind the last microbatch, if that is later
    _next_kept: int  # the offset at which the trail must be worked out
    _feed_pid: int  # the process that opened the feed
    _in_pass: bool  # the feed was asked for this epoch
    _num_before: int  # microbatches of this epoch before the producer began
    _num_delivered: int  # since then
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
    def _snapshot_of(self, place: Place) -> Callable[[], dict[str, Any]]:
        """A function that writes the state dict of a place, also when the loader has moved on."""

    def __iter__(self) -> Iterator[T_co]:
        """Begin the next epoch, unless the current one has delivered nothing yet."""
        if self._has_begun():
            following = self._epoch if self._has_failed else self._epoch + 1
            self._restart(following if self._wanted_epoch is None else self._wanted_epoch)
        return self

    def __next__(self) -> T_co:
        """The next microbatch of the epoch."""
        if self._has_failed:
            raise RuntimeError("this epoch has failed; iter() begins it again")
        if self._is_over:
            raise StopIteration
        try:
            produced = self._next_produced()
        except StopIteration:
            self._is_over = True
            self._stand_at(Place(self._epoch + 1))
            raise
        except Exception as error:
            self._fail(error)
            raise
        microbatch: T_co = produced[0]
        self._num_delivered += 1
        self._has_delivered = True
        self._restarts.progress()
        mark = produced[1]
        if mark.ends or mark.offset >= self._next_kept or mark.shard != self._base.shard:
            self._pass(mark)
        else:
            self._mark = mark  # the common case: what follows from it is made when asked for
        return microbatch

    def state_dict(self) -> dict[str, Any]:
        """Where the next microbatch stands, in plain types under fixed keys. Starts nothing."""
        return self.snapshot()()

    def snapshot(self, next_epoch: bool = False) -> Callable[[], dict[str, Any]]:
        """The present position in a microsecond; the result is `state_dict` as it is now.

        Args:
            next_epoch: The beginning of the epoch after the present one instead.
        """
        return self._snapshot_of(Place(self._epoch + 1) if next_epoch else self._place)

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
        self._check_process()
        return LoaderStats() if self._feed is None else self._feed.stats()

    def teardown(self, *_: Any) -> None:
        """Stop the producer, and with it the current epoch. ``iter()`` starts anew."""
        self._is_over = self._has_delivered
        self._stop_feed()

    def on_exception(self, exception: BaseException) -> None:
        """Stop the producer: the training loop has failed."""
        del exception
        self.teardown()

    def _resume_at(self, place: Place, described: Description) -> None:
        """Make the next microbatch the one at ``place``."""
        self._stop_feed()
        self._resume = place
        self._described = described
        self._begin(place)

    def _has_begun(self) -> bool:
        return self._has_delivered or self._is_over or self._has_failed

    def _restart(self, epoch: int) -> None:
        if self._resume is not None and self._resume.epoch != epoch:
            self._resume = None
        of_epoch = (b if b is not None and b.epoch == epoch else None for b in self._feed_begins)
        if any(begin != self._resume for begin in of_epoch):
            self._stop_feed()  # one would begin in the middle, or where it took over
        self._begin(self._resume or Place(epoch))

    def _begin(self, place: Place) -> None:
        self._epoch = place.epoch
        self._stand_at(place)
        self._wanted_epoch = None
        self._in_pass = False
        self._num_before = place.microbatch
        self._num_delivered = 0
        self._has_delivered = False
        self._is_over = False
        self._has_failed = False

    @property
    def _place(self) -> Place:
        return self._base if self._mark is None else self._behind(self._mark)

    def _stand_at(self, place: Place) -> None:
        self._base = place
        self._mark = None
        self._next_kept = place.trail.next_kept

    def _pass(self, mark: Mark) -> None:
        """Move the place behind a microbatch."""
        self._stand_at(self._behind(mark))

    def _behind(self, mark: Mark) -> Place:
        """The place behind the last microbatch, whose mark this is."""
        if mark.ends is Ends.EPOCH:
            return Place(self._epoch + 1)
        microbatch = self._num_before + self._num_delivered
        if mark.ends is Ends.SHARD:
            return Place(self._epoch, microbatch, mark.shard + 1)
        trail = self._base.trail if self._base.shard == mark.shard else NO_TRAIL
        trail = trail.then(mark)
        return Place(self._epoch, microbatch, mark.shard, trail, mark.inner, mark.workers)

    def _take_note(self, event: Event) -> None:
        if isinstance(event, Notice):
            warnings.warn(event.text, stacklevel=4)
        elif isinstance(event, Described):
            self._described = event.source
        elif self._place.epoch == self._epoch:  # a shard was done, the epoch is not
            microbatch = self._num_before + self._num_delivered
            self._stand_at(Place(self._epoch, microbatch, event.shard + 1))

    def _next_produced(self) -> Delivered:
        while True:
            try:
                feed = self._current_feed()
                number = self._num_before + self._num_delivered
                while type(produced := feed.next(self._device, number)) is not Delivered:
                    self._take_note(produced)  # type: ignore[arg-type]
                return produced
            except ProducerDiedError as death:
                self._replace_producer(death)
                if self._is_over:  # it had published the last one
                    raise StopIteration from None

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
        self._stand_at(place)
        try:
            if self._is_over:
                self._in_pass = False  # the new one knows nothing of it: len() begins it again
            if not self._multiprocessing:
                self._stop_feed()  # the death is one in user code
            elif self._feed is not None:
                self._feed_begins.add(begin)
                cast(ProcessFeed, self._feed).replace(self._work(begin), not self._is_over)
        except BaseException as error:
            self._stop_feed()  # asked again, we open another at this place
            if not isinstance(error, ProducerDiedError):
                raise

    def _present(self) -> Place | None:
        """Where a producer that is started now begins; None for the beginning of any epoch."""
        return self._resume if self._place == Place(self._epoch) else self._place

    def _current_feed(self) -> Feed:
        self._check_process()
        if self._feed is None:
            begin = self._present()
            self._feed_pid = os.getpid()
            self._feed_begins = {begin}
            self._feed = self._open_feed(begin)
        if not self._in_pass:
            self._feed.begin_pass(self._epoch)
            self._in_pass = True
        return self._feed

    def _check_process(self) -> None:
        """Refuse to read in a forked child: a ring has one reader, and a lock that may be taken."""
        if self._multiprocessing and self._feed is not None and self._feed_pid != os.getpid():
            raise RuntimeError(
                f"this loader belongs to process {self._feed_pid}, this is a child that it forked "
                f"(process {os.getpid()}): make a loader of its own here, or start one by "
                "teardown() or load_state_dict(). What was delivered may be read here"
            )

    def _stop_feed(self) -> None:
        self._in_pass = False
        self._feed_begins = set()
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.stop()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, StalledError | torch.cuda.OutOfMemoryError):
            return  # nothing is lost: asking again waits, or tries, again
        if isinstance(error, ProducerDiedError | CorruptSegmentError | DeviceError):
            self.teardown()
        self._has_failed = True
