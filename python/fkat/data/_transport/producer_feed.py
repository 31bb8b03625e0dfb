"""A feed from a producer process, through a ring in shared memory."""

from __future__ import annotations

import logging
import os
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import util
from multiprocessing.context import BaseContext

import torch

from fkat.data import _core
from fkat.data._device import cuda
from fkat.data._source.note import Taken
from fkat.data._transport import process_limits, stall, users_frame
from fkat.data._transport.feed import LoaderStats
from fkat.data._transport.producer_process import ProducerProcess
from fkat.data._transport.reader import Arrival, HostReader, Reader, moved
from fkat.data._transport.remote_error import load_error
from fkat.data._transport.staged_reader import StagedReader, can_stage
from fkat.data._transport.work import Work
from fkat.data.errors import StalledError

_logger = logging.getLogger("fkat.data")

MAX_LEASES = 8  # microbatches the user may keep alive before next() returns private copies
_WINDOW_UNBOUNDED = 503  # what they may hold is the budget's matter
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
        num_device_prefetches: Copies to a device in flight behind that of the next microbatch.
        num_rings: How many rings share the budget.
    """

    num_prefetches: int
    max_microbatch_nbytes: int
    memory_budget_nbytes: int | None
    context: BaseContext
    timeout_s: float | None
    num_device_prefetches: int
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
        """One to write, drafts, those published ahead, those leased to the trainer."""
        return 1 + _core.MAX_DRAFTS + self.window + MAX_LEASES

    @property
    def window(self) -> int:
        """Microbatches that may be published ahead."""
        return _WINDOW_UNBOUNDED if self.num_prefetches < 0 else self.num_prefetches


class ProducerFeed:
    """Starts a producer and reads its ring. One process and one ring for any number of passes.

    Args:
        work: What to produce.
        options: The ring's.
        device: Where microbatches go; None for host memory.
        name: What the producer is called in a report of a stall.
    """

    def __init__(
        self,
        work: Work,
        options: RingOptions,
        device: torch.device | None,
        name: str = "the producer",
    ) -> None:
        self._name = name
        self._options = options
        # Without a timeout a long wait is told, and goes on.
        timeout_s = options.timeout_s
        self.patience_s = stall.LOGGED_AFTER_S if timeout_s is None else timeout_s
        self._has_warned = False
        self._num_microbatches = self._nbytes = self._num_copies = 0
        self._of_the_dead = LoaderStats()  # what only their rings knew
        self._left: deque[Arrival] = deque()  # of a reader for another device
        self._budget_nbytes = options.ring_budget_nbytes
        self._num_rings = 1  # that share the budget and the window
        self._cgroup_nbytes = _core.memory_limit()[2]
        self._epoch = 0
        self._device = device
        self._open(work)

    def _open(self, work: Work) -> None:
        options = self._options
        self._ring = _core.Ring.create(options.num_slots, options.max_microbatch_nbytes)
        self._consumer = _core.Consumer(self._ring, options.window, MAX_LEASES)
        self._consumer.share_window(self._num_rings)
        # First: no producer for a device that is not there.
        self._reader = self._open_reader(self._device)
        self._reader.share(self._num_rings)
        with process_limits.told():
            self._process = ProducerProcess(work, self._ring, self._budget_nbytes, options.context)
        self._consumer.watch(self._process.pidfd)

    @property
    def pid(self) -> int:
        """Process id of the producer."""
        return self._process.pid

    def begin_pass(self, epoch: int, start: int = 0) -> None:
        self._epoch = epoch
        self._left.clear()
        self._reader.drop()
        self._consumer.begin_pass(epoch, start)

    def share(self, num_rings: int) -> None:
        """The window is that of so many rings together; the producers divide the budget alone."""
        if num_rings != self._num_rings:
            self._num_rings = num_rings
            self._consumer.share_window(num_rings)
            self._reader.share(num_rings)

    def replace(self, work: Work, goes_on: bool) -> None:
        pinning_s, stall_s = self._reader.pinning()[1], self._consumer.stats.stall_s
        self._of_the_dead += LoaderStats(stall_s=stall_s, num_restarts=1, pinning_s=pinning_s)
        self.stop()
        self._open(work)
        if goes_on:
            self.begin_pass(self._epoch)

    def next(self, device: torch.device | None, number: int) -> Taken:
        taken = self.next_within(self.patience_s, device, number)
        while taken is None:
            self.tell_stall("microbatch", self.report())
            taken = self.next_within(None, device, number)
        return taken

    def next_within(
        self, timeout_s: float | None, device: torch.device | None, number: int
    ) -> Taken | None:
        """As `next`, but None if nothing comes in that time; 0: if nothing is there."""
        if device != self._device:
            self._move_to(device)
        if self._num_copies and not self._has_warned:
            self._warn_of_copies()
        try:
            if self._left:
                taken, nbytes, is_copy = self._left[0].deliver()
                taken = moved(taken, device)  # may lack memory: removed only after it
                del self._left[0]
            elif timeout_s != 0:
                taken, nbytes, is_copy = self._reader.next(timeout_s, number)
            elif (arrived := self._reader.next_if_ready(number)) is not None:
                taken, nbytes, is_copy = arrived
            else:
                return None
        except _core.DeadlinePassedError:
            return None
        except _core.ProducerExitedError:
            raise self._gone() from None
        # No call from here on: an interrupt would lose what was taken.
        if taken[1] is not None:
            self._num_microbatches += 1
            self._nbytes += nbytes
            self._num_copies += is_copy
        return taken

    @staticmethod
    def wait_any(feeds: Sequence[ProducerFeed], timeout_s: float) -> int | None:
        """Sleep until one may have something, or its producer has died: its number, else None."""
        return _core.Consumer.wait_any([feed._consumer for feed in feeds], timeout_s)

    def length(self) -> int | None:
        try:
            try:
                length = self._consumer.await_length(self.patience_s)
            except _core.DeadlinePassedError:
                self.tell_stall("length", self.report())
                length = self._consumer.await_length(None)
        except _core.ProducerExitedError:
            raise self._gone() from None
        if length >= 0:
            return length
        if length == _core.LENGTH_UNKNOWN:
            return None
        raise self._error_instead_of_length()

    def stats(self) -> LoaderStats:
        pinned_nbytes, pinning_s = self._reader.pinning()
        return self._of_the_dead + LoaderStats(
            self._num_microbatches,
            self._nbytes,
            self._num_copies,
            self._consumer.stats.stall_s,
            pinned_nbytes=pinned_nbytes,
            pinning_s=pinning_s,
            ring_nbytes=self._ring_nbytes(),
            budget_nbytes=self._own_budget_nbytes,
            cgroup_nbytes=self._cgroup_nbytes,
        )

    def tell_to_stop(self) -> None:
        self._process.tell_to_stop()

    def stop(self) -> None:
        try:
            self._process.stop()
        finally:
            self._reader.close()

    def _open_reader(self, device: torch.device | None) -> Reader:
        if device is None or device.type != "cuda":
            return HostReader(self._consumer, device)
        memory = cuda.open_memory(device)
        if not can_stage():
            cuda.tell_unstaged(device)
            return HostReader(self._consumer, device)
        num_prefetches = self._options.num_device_prefetches
        return StagedReader(self._ring, self._consumer, MAX_LEASES, memory, num_prefetches)

    def _move_to(self, device: torch.device | None) -> None:
        """Read for another device from now on; what was read for the old one comes first."""
        self._left += self._reader.close()
        self._reader, self._device = HostReader(self._consumer, None), None  # if opening fails
        self._reader, self._device = self._open_reader(device), device
        self._reader.share(self._num_rings)

    def _error_instead_of_length(self) -> Exception:
        """Why the source could not be built; it was published instead of a length."""
        record = self._consumer.acquire(self.patience_s)
        if isinstance(record, _core.ProducerError):
            return load_error(record.text)
        return RuntimeError("the producer published a microbatch before it announced its length")

    def tell_stall(self, what: str, report: str) -> None:
        """Raise what is known, if the user set a timeout; else log it, before a wait without end.

        Args:
            what: Was waited for.
            report: What is known.

        Raises:
            StalledError: There is a timeout.
        """
        if self._options.timeout_s is not None:
            raise StalledError(
                f"no {what} within timeout={self._options.timeout_s} s: {report}\n"
                "(raise timeout if that is to be expected)"
            ) from None
        _logger.warning(
            "no %s for %g s: %s\n(still waiting; this is said once for each wait)",
            what,
            self.patience_s,
            report,
        )

    def report(self) -> str:
        """What the producer does, for a person to read."""
        view = self._ring.look()
        used_nbytes = max(self._ring_nbytes() - view.leased_nbytes, 0)
        state, stack = self._process.state_and_stack()
        who = f"{self._name} (pid {self.pid})"
        return stall.describe(who, view, used_nbytes, self._own_budget_nbytes, state, stack)

    @property
    def _own_budget_nbytes(self) -> int:
        return self._budget_nbytes // self._num_rings

    def _ring_nbytes(self) -> int:
        return 512 * os.fstat(self._ring.fd).st_blocks

    def _gone(self) -> BaseException:
        if util.is_exiting():
            # Python is ending and has stopped the producer: so ends this thread, silently.
            return SystemExit()
        return self._process.death()

    def _warn_of_copies(self) -> None:
        self._has_warned = True
        warnings.warn(
            f"more than {MAX_LEASES} microbatches are kept alive, so new ones are copied out of "
            "shared memory. This is correct but slower: clone() what you keep for long",
            stacklevel=users_frame.stacklevel(),
        )
