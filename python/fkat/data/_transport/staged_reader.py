"""Microbatches on their way to a CUDA device while the training step computes."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fkat.data import _core
from fkat.data._device.cuda import CudaMemory
from fkat.data._transport import interruption
from fkat.data._transport.codec import asarray
from fkat.data._transport.reader import Arrival, Arrived, Held
from fkat.data._transport.record import end_of, is_event, unpacker
from fkat.data._transport.slab import tensors_in
from fkat.data.errors import DeviceError

_logger = logging.getLogger("fkat.data")


def can_stage() -> bool:
    """Whether this build and this torch copy from the ring's own memory to ``cuda`` devices."""
    return _core.HAS_CUDA and torch.version.hip is None


def driver_path() -> str:
    """The CUDA driver's library, found by the loader; FKAT_DATA_CUDA_DRIVER names another."""
    return os.environ.get("FKAT_DATA_CUDA_DRIVER", "libcuda.so.1")


class StagedReader:
    """Keeps copies in flight: that of the next microbatch, and of those behind it that are ready.

    The tensors of a microbatch are copied at once, from the slot that the producer wrote, into one
    piece of device memory. The slot is the producer's again when the copy is done. No tensor or
    array ever shows page-locked memory to the user: a ``to(device, non_blocking=True)`` of it would
    go on reading after the slot was released, since torch's events do not cover our memory.

    Args:
        ring: Whose slots are read.
        consumer: The end of it that reads.
        max_leases: What it may hold before it makes private copies.
        memory: Of the device.
        num_prefetches: How many copies may be in flight behind that of the next microbatch.
    """

    def __init__(
        self,
        ring: _core.Ring,
        consumer: _core.Consumer,
        max_leases: int,
        memory: CudaMemory,
        num_prefetches: int,
    ) -> None:
        self._consumer = consumer
        self._memory = memory
        self._max_leases = max_leases
        self._num_prefetches = self._num_ahead = num_prefetches
        self._stager = _core.RingStager(ring, memory.device.index, driver_path())
        self._stager.prefer_node_of_device()
        self._unpacker = unpacker()
        # Copies in flight, and at the end perhaps a record whose copy is still to be issued.
        self._queue: deque[Any] = deque()
        self._number = 0  # of the next microbatch to be delivered
        self._is_refusal_told = False
        consumer.serve(self._stager)

    def next(self, timeout_s: float | None, number: int) -> Arrived:
        self._number = number
        # An interrupt between any two steps loses nothing: whatever was read stands in the queue,
        # and each step may be taken again.
        self._make_room()
        if not self._queue:
            self._consumer.acquire(timeout_s, self._queue.append, interruption.ask)
        return self._deliver()

    def next_if_ready(self, number: int) -> Arrived | None:
        self._number = number
        self._make_room()
        if not self._queue:
            self._consumer.try_acquire(self._queue.append)
        return self._deliver() if self._queue else None

    def share(self, num_rings: int) -> None:
        self._num_prefetches = self._num_ahead = -(-self._num_prefetches // num_rings)

    def drop(self) -> None:
        self._queue.clear()
        self._num_ahead = self._num_prefetches

    def close(self) -> deque[Arrival]:
        self._stager.close()
        self._consumer.serve(None)
        left = deque(self._unstarted(entry) for entry in self._queue)
        self.drop()
        return left

    def pinning(self) -> tuple[int, float]:
        pinning = self._stager.pinning
        return pinning.nbytes, pinning.spent_s

    def _make_room(self) -> None:
        """So that what is read next needs no private copy."""
        self._stager.poll()
        while not self._queue and not self._has_room() and self._stager.num_in_flight > 0:
            self._stager.await_oldest()

    def _deliver(self) -> Arrived:
        self._start(0)
        self._fill()
        arrived: Arrived = self._queue[0].deliver()
        del self._queue[0]  # not popleft(): Python looks at signals behind each call
        return arrived

    def _fill(self) -> None:
        """Issue the copies of what is ready; where the device has no memory, fewer."""
        while len(self._queue) <= self._num_ahead + 1:
            last = len(self._queue) - 1
            if last <= self._num_ahead:
                try:
                    self._start(last)
                except torch.cuda.OutOfMemoryError:
                    # Fewer for the rest of the pass: each try in vain empties torch's cache.
                    self._num_ahead = last - 1
                    return
            if last >= self._num_ahead or type(self._queue[last]) is _End or not self._has_room():
                return
            if self._consumer.try_acquire(self._queue.append) is None:
                return

    def _has_room(self) -> bool:
        """Whether the ring would lend another slot. Beyond that it makes private copies of them.

        A training loop that never waits for the device is stopped here, by the copies it is ahead.
        """
        return self._consumer.outstanding_leases < self._max_leases

    def _start(self, i: int) -> None:
        """Issue the copy of what stands there in the queue, unless that was done."""
        entry = self._queue[i]
        if type(entry) is _core.Microbatch:
            entry = self._queue[i] = self._place(entry)
        elif type(entry) is not _Staged and type(entry) is not _End:
            entry = self._queue[i] = _End(partial(end_of, entry))
        if type(entry) is _Staged and not entry.has_started:
            try:
                self._copy(entry, i)
            except DeviceError as error:  # told when it is this microbatch's turn
                self._queue[i] = _End(partial(DeviceError, *error.args))

    def _place(self, record: _core.Microbatch) -> _Staged:
        return _Staged(
            self._stager,
            self._memory,
            self._unpacker,
            record,
            record.structure,
            record.placed_leaves(asarray),
            self._memory.allocate(record.tensors_nbytes),
            record.nbytes,
            record.is_copy,
        )

    def _copy(self, entry: _Staged, i: int) -> None:
        number = self._number + sum(self._queue[j].is_microbatch for j in range(i))
        what = f"copying microbatch {number} to {self._memory.device}"
        address, stream = entry.slab.data_ptr(), self._memory.copy_stream
        entry.transfer = self._stager.copy(entry.record, address, stream, what)
        if not self._is_refusal_told and self._stager.refusal:
            self._tell_refusal()

    @staticmethod
    def _unstarted(entry: Any) -> Arrival:
        if type(entry) is _Staged:
            return entry if entry.has_started else Held(entry.record)
        return entry if type(entry) is _End else Held(entry)

    def _tell_refusal(self) -> None:
        self._is_refusal_told = True
        _logger.warning(
            "the CUDA driver does not page-lock the memory of the ring (%s): copies to %s are "
            "slower and wait for each other. The likely cause is a limit on locked memory of this "
            "container or user",
            self._stager.refusal,
            self._memory.device,
        )


@dataclass(slots=True)
class _Staged:
    """A microbatch (or an event) whose tensors are on the device, or will be."""

    stager: _core.RingStager
    memory: CudaMemory
    unpacker: _core.Unpacker
    record: _core.Microbatch
    structure: bytes
    leaves: list[Any]
    slab: torch.Tensor
    nbytes: int
    is_copy: bool
    transfer: _core.Transfer | None = None  # None: it has no tensors

    @property
    def has_started(self) -> bool:
        return self.transfer is not None or self.slab.numel() == 0

    @property
    def is_microbatch(self) -> bool:
        return not is_event(self.structure)

    def deliver(self) -> Arrived:
        if self.transfer is not None:
            self.stager.make_wait(self.transfer, self.memory.current_stream())
            self.memory.hand_over(self.slab)
        taken = self.unpacker.unpack(self.structure, tensors_in(self.slab, self.leaves))
        return taken, self.nbytes, self.is_copy


@dataclass(slots=True)
class _End:
    """The end of a pass, or its failure."""

    reason: Callable[[], Exception]  # made when raised: kept, its traceback would keep the reader
    is_microbatch = False

    def deliver(self) -> Arrived:
        raise self.reason()
