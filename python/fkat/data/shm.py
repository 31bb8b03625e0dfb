"""`ShmDataLoader`: microbatches from a producer process through shared memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import BaseContext
from typing import Any, Generic, TypeVar

import torch

from fkat.data import _arguments as arguments
from fkat.data._feed import Feed, LoaderStats
from fkat.data._local_feed import LocalFeed
from fkat.data._producer import Work
from fkat.data._producer_feed import ProducerFeed, RingOptions
from fkat.data._seeding import Seeder
from fkat.data.errors import CorruptSegmentError, ProducerDiedError, StalledError

__all__ = ["LoaderStats", "ShmDataLoader"]

T_co = TypeVar("T_co", covariant=True)

_INT64_MAX = 2**63 - 1  # what a seed is derived from


class ShmDataLoader(Generic[T_co]):
    """A data loader whose microbatches are made in another process and read from shared memory.

    It yields the same microbatches in the same order as the loader that ``dataloader_factory``
    returns. Tensors and numpy arrays in host memory are views of shared memory: they stay right for
    as long as they are kept, may be written to, and survive the loader.

    The loader is its own iterator. ``iter()`` begins the next epoch if the current one has
    delivered anything, begins an epoch that failed again, and does nothing else; the producer is
    started by the first ``next()`` or ``len()``. One producer serves every epoch. Two loops at once
    need two loaders.

    Args:
        seed: Python, numpy and torch are seeded for every microbatch from (seed, dp_rank, epoch,
            position).
        dataloader_factory: Called in the producer; returns a ``DataLoader`` or any iterable of
            microbatches. Must be picklable unless processes are started by fork.
        num_microbatch_prefetches: At most so many microbatches are published ahead of the trainer;
            0 makes each on demand; -1 makes as many as the memory budget admits (at most 503).
        dp_rank: Data-parallel rank. Ranks that share one see the same microbatches.
        profiler: A Lightning ``Profiler``, run in the producer; the name of its report gets the pid
            as a suffix.
        device: Where to move tensors; None leaves them in host memory.
        multiprocessing: False makes the same microbatches in the calling thread, for debugging.
        multiprocessing_context: Start method or context, as in ``DataLoader``; None for
            multiprocessing's default.
        timeout: Longest wait for a microbatch, in seconds; 0 for no limit.
        memory_budget_nbytes: What may be published ahead, in bytes; None for a quarter of the
            memory available to this process (limits of its cgroups included).
        max_microbatch_nbytes: Address space reserved for a microbatch, in bytes. Costs no memory.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a value that cannot work.

    Iterating raises what user code raised (with the producer's traceback in the text),
    `fkat.data.errors.ProducerDiedError` when the producer was killed, ``MemoryError`` when a slot
    cannot grow, ``ValueError`` for a microbatch larger than ``max_microbatch_nbytes`` or
    ``memory_budget_nbytes``, ``TypeError`` for one that cannot be pickled, and
    `fkat.data.errors.StalledError` after ``timeout``, when asking again waits again.
    """

    def __init__(
        self,
        seed: int,
        dataloader_factory: Callable[[], Iterable[T_co]],
        num_microbatch_prefetches: int = -1,
        dp_rank: int = 0,
        profiler: Any = None,
        device: torch.device | None = None,
        multiprocessing: bool = True,
        *,
        multiprocessing_context: str | BaseContext | None = None,
        timeout: float = 0,
        memory_budget_nbytes: int | None = None,
        max_microbatch_nbytes: int = 1 << 30,
    ) -> None:
        self._work = Work(
            arguments.function("dataloader_factory", dataloader_factory),
            Seeder(
                arguments.integer("seed", seed),
                arguments.integer("dp_rank", dp_rank, minimum=0, maximum=_INT64_MAX),
            ),
            arguments.profiler("profiler", profiler),
        )
        self._options = RingOptions(
            num_prefetches=arguments.integer(
                "num_microbatch_prefetches", num_microbatch_prefetches, minimum=-1, maximum=4000
            ),
            max_microbatch_nbytes=arguments.integer(
                "max_microbatch_nbytes", max_microbatch_nbytes, minimum=1, maximum=1 << 40
            ),
            memory_budget_nbytes=arguments.optional_integer(
                "memory_budget_nbytes", memory_budget_nbytes, minimum=1
            ),
            context=arguments.context("multiprocessing_context", multiprocessing_context),
            timeout_s=arguments.seconds("timeout", timeout) or None,
        )
        self._device = arguments.device("device", device)
        self._multiprocessing = arguments.boolean("multiprocessing", multiprocessing)
        self._feed: Feed | None = None
        self._epoch = 0
        self._wanted_epoch: int | None = None  # by set_epoch(), for the next pass
        self._in_pass = False  # the feed was asked for this epoch
        self._num_delivered = 0  # in this epoch
        self._is_over = False  # the epoch's last microbatch was delivered
        self._has_failed = False

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
            microbatch: T_co = self._current_feed().next_microbatch(self._device)
        except StopIteration:
            self._is_over = True
            raise
        except Exception as error:
            self._fail(error)
            raise
        self._num_delivered += 1
        return microbatch

    def __len__(self) -> int:
        """Microbatches in an epoch; TypeError when the factory's loader does not know.

        Starts the producer, which alone can tell.
        """
        if self._has_failed:
            self._restart(self._epoch)
        try:
            length = self._current_feed().length()
        except Exception as error:
            self._fail(error)
            if self._has_failed and self._num_delivered == 0:
                # list() takes a TypeError from here for "no length": next() shall say it again.
                self._restart(self._epoch)
            raise
        if length is None:
            raise TypeError("the loader that dataloader_factory returned has no len()")
        return length

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of ``epoch``; a pass that has delivered something goes on."""
        epoch = arguments.integer("epoch", epoch, minimum=0, maximum=_INT64_MAX)
        if self._has_begun():
            self._wanted_epoch = epoch
        elif epoch != self._epoch:
            self._restart(epoch)

    def set_device(self, device: torch.device | None) -> None:
        """Move tensors to ``device`` from the next microbatch on; None leaves them on the host."""
        self._device = arguments.device("device", device)

    def stats(self) -> LoaderStats:
        """What was delivered, and how long ``next()`` waited for it, since the producer started."""
        return LoaderStats() if self._feed is None else self._feed.stats()

    def teardown(self, *_: Any) -> None:
        """Stop the producer, and with it the current epoch. ``iter()`` starts anew."""
        self._is_over = self._num_delivered > 0
        self._in_pass = False
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.stop()

    def on_exception(self, exception: BaseException) -> None:
        """Stop the producer: the training loop has failed."""
        del exception
        self.teardown()

    def _has_begun(self) -> bool:
        return self._num_delivered > 0 or self._is_over or self._has_failed

    def _restart(self, epoch: int) -> None:
        self._epoch = epoch
        self._wanted_epoch = None
        self._in_pass = False
        self._num_delivered = 0
        self._is_over = False
        self._has_failed = False

    def _current_feed(self) -> Feed:
        if self._feed is None:
            self._feed = (
                ProducerFeed(self._work, self._options)
                if self._multiprocessing
                else LocalFeed(self._work)
            )
        if not self._in_pass:
            self._feed.begin_pass(self._epoch)
            self._in_pass = True
        return self._feed

    def _fail(self, error: Exception) -> None:
        if isinstance(error, StalledError):
            return  # nothing is lost: asking again waits again
        if isinstance(error, ProducerDiedError | CorruptSegmentError):
            self.teardown()
        self._has_failed = True
