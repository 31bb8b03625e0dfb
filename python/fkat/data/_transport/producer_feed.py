"""A feed from a producer process, through a ring in shared memory."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from multiprocessing import util
from multiprocessing.context import BaseContext

import torch

from fkat.data import _core
from fkat.data._source.note import Delivered, Produced
from fkat.data._transport.codec import asarray, from_dlpack
from fkat.data._transport.feed import LoaderStats
from fkat.data._transport.producer_process import ProducerProcess
from fkat.data._transport.record import unpack
from fkat.data._transport.remote_error import load_error
from fkat.data._transport.work import Work
from fkat.data.errors import StalledError

MAX_LEASES = 8  # microbatches the user may keep alive before next() returns private copies
_SLOTS_FOR_UNBOUNDED = 512  # of address space; what they may hold is the budget's matter
_DEFAULT_BUDGET_SHARE = 4


@dataclass(frozen=True)
class RingOptions:
    """How much may be published ahead, and where.

    Attributes:
        num_prefetches: Microbatches; -1 for as many as the budget admits.
        max_microbatch_nbytes: Address space of a slot, in bytes.
        memory_budget_nbytes: None for a quarter of what is available to this process.
        context: How to start the producer.
        timeout_s: Longest wait for a microbatch; None for no limit.
        num_rings: How many rings share the budget.
    """

    num_prefetches: int
    max_microbatch_nbytes: int
    memory_budget_nbytes: int | None
    context: BaseContext
    timeout_s: float | None
    num_rings: int = 1

    @property
    def ring_budget_nbytes(self) -> int:
        """What the slots of one ring may hold."""
        budget_nbytes = self.memory_budget_nbytes
        if budget_nbytes is None:
            budget_nbytes = _core.memory_limit()[0] // _DEFAULT_BUDGET_SHARE
        return max(budget_nbytes // self.num_rings, 1)

    @property
    def num_slots(self) -> int:
        """One to write, those published ahead, those leased to the trainer."""
        if self.num_prefetches < 0:
            return _SLOTS_FOR_UNBOUNDED
        return 1 + self.num_prefetches + MAX_LEASES

    @property
    def window(self) -> int:
        """Microbatches that may be published ahead."""
        return self.num_slots - 1 - MAX_LEASES


class ProducerFeed:
    """Starts a producer and reads its ring. One process and one ring for any number of passes."""

    def __init__(self, work: Work, options: RingOptions) -> None:
        self._timeout_s = options.timeout_s
        self._has_warned = False
        self._of_events = LoaderStats()  # which the ring takes for microbatches
        ring = _core.Ring.create(options.num_slots, options.max_microbatch_nbytes)
        self._consumer = _core.Consumer(ring, options.window, MAX_LEASES)
        self._process = ProducerProcess(work, ring, options.ring_budget_nbytes, options.context)
        pidfd = self._process.open_pidfd()
        try:
            self._consumer.watch(pidfd)
        finally:
            os.close(pidfd)

    @property
    def pid(self) -> int:
        """Process id of the producer."""
        return self._process.pid

    def begin_pass(self, epoch: int, start: int = 0) -> None:
        self._consumer.begin_pass(epoch, start)

    def next(self, device: torch.device | None) -> Produced:
        try:
            record = self._consumer.acquire(self._timeout_s)
        except _core.ProducerExitedError:
            raise self._gone() from None
        except TimeoutError:
            raise self._stalled() from None
        if type(record) is _core.Microbatch:
            if record.is_copy and not self._has_warned:
                self._warn_of_copies()
            produced = unpack(record.structure, record.leaves(from_dlpack, asarray), device)
            if type(produced) is not Delivered:
                self._of_events += LoaderStats(1, record.nbytes, int(record.is_copy))
            return produced
        if type(record) is _core.ProducerError:
            raise load_error(record.text)
        raise StopIteration

    def length(self) -> int | None:
        try:
            length = self._consumer.await_length(self._timeout_s)
        except _core.ProducerExitedError:
            raise self._gone() from None
        except TimeoutError:
            raise self._stalled() from None
        if length >= 0:
            return length
        if length == _core.LENGTH_UNKNOWN:
            return None
        raise self._error_instead_of_length()

    def stats(self) -> LoaderStats:
        seen = self._consumer.stats
        events = self._of_events
        return LoaderStats(
            seen.num_microbatches - events.num_microbatches,
            seen.nbytes - events.nbytes,
            seen.num_copies - events.num_copies,
            seen.stall_s,
        )

    def stop(self) -> None:
        self._process.stop()

    def _error_instead_of_length(self) -> Exception:
        """Why the source could not be built; it was published instead of a length."""
        record = self._consumer.acquire(self._timeout_s)
        if isinstance(record, _core.ProducerError):
            return load_error(record.text)
        return RuntimeError("the producer published a microbatch before it announced its length")

    def _gone(self) -> BaseException:
        if util.is_exiting():
            # Python is ending and has stopped the producer: so ends this thread, silently.
            return SystemExit()
        return self._process.death()

    def _stalled(self) -> StalledError:
        return StalledError(
            f"no microbatch within timeout={self._timeout_s} s; the producer (pid "
            f"{self._process.pid}) is alive: look at what it does with `py-spy dump --pid "
            f"{self._process.pid}`, or raise timeout"
        )

    def _warn_of_copies(self) -> None:
        self._has_warned = True
        warnings.warn(
            f"more than {MAX_LEASES} microbatches are kept alive, so new ones are copied out of "
            "shared memory. This is correct but slower: clone() what you keep for long",
            stacklevel=4,
        )
