"""Microbatches on their way to a CUDA device while the training step computes."""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch

from fkat.data import _core
from fkat.data._device.cuda import CudaMemory
from fkat.data._transport.codec import asarray
from fkat.data._transport.reader import Arrival, Arrived, deliver, end_of
from fkat.data._transport.record import is_event, unpack
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
        self._num_prefetches = num_prefetches
        self._stager = _core.RingStager(ring, memory.device.index, driver_path())
        self._stager.prefer_node_of_device()
        self._in_flight: deque[_Staged | _End] = deque()
        self._held: Any = None  # read, but there was no memory for it on the device
        self._number = 0  # of the next microbatch to be copied
        self._is_refusal_told = False
        consumer.serve(self._stager)

    def next(self, timeout_s: float | None, number: int) -> Arrived:
        self._number = number + sum(entry.is_microbatch for entry in self._in_flight)
        self._stager.poll()
        if not self._in_flight:
            if self._held is None:
                while not self._has_room() and self._stager.num_in_flight > 0:
                    self._stager.await_oldest()
                self._held = self._consumer.acquire(timeout_s)
            self._stage_held()
        self._fill()
        # Removed only when it is delivered: an interrupt in between loses nothing.
        arrived = self._in_flight[0].deliver()
        self._in_flight.popleft()
        return arrived

    def drop(self) -> None:
        self._held = None
        self._in_flight.clear()

    def close(self) -> deque[Arrival]:
        self._stager.close()
        self._consumer.serve(None)
        left: deque[Arrival] = deque(self._in_flight)
        if self._held is not None:
            left.append(_Held(self._held))
        self.drop()
        return left

    def pinning(self) -> tuple[int, float]:
        pinning = self._stager.pinning
        return pinning.nbytes, pinning.spent_s

    def _fill(self) -> None:
        """Issue the copies of what is ready; where the device has no memory, fewer."""
        while len(self._in_flight) <= self._num_prefetches:
            if type(self._in_flight[-1]) is _End:
                return
            if self._held is None:
                if not self._has_room():
                    return
                self._held = self._consumer.try_acquire()
            if self._held is None:
                return
            try:
                self._stage_held()
            except torch.cuda.OutOfMemoryError:
                return

    def _has_room(self) -> bool:
        """Whether the ring would lend another slot. Beyond that it makes private copies of them.

        A training loop that never waits for the device is stopped here, by the copies it is ahead.
        """
        return self._consumer.outstanding_leases < self._max_leases

    def _stage_held(self) -> None:
        record = self._held
        if type(record) is not _core.Microbatch:
            self._in_flight.append(_End(end_of(record)))
        else:
            try:
                self._in_flight.append(self._stage(record))
            except DeviceError as error:  # told when it is this microbatch's turn
                self._in_flight.append(_End(error))
        self._held = None

    def _stage(self, record: _core.Microbatch) -> _Staged:
        nbytes = record.tensors_nbytes
        slab = self._memory.allocate(nbytes)
        staged = _Staged(
            self._stager,
            self._memory,
            record.structure,
            record.placed_leaves(asarray),
            slab,
            record.nbytes,
            record.is_copy,
        )
        if nbytes > 0:
            what = f"copying microbatch {self._number} to {self._memory.device}"
            address, stream = slab.data_ptr(), self._memory.copy_stream
            staged.transfer = self._stager.copy(record, address, stream, what)
            if not self._is_refusal_told and self._stager.refusal:
                self._tell_refusal()
        self._number += staged.is_microbatch
        return staged

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
    structure: bytes
    leaves: list[Any]
    slab: torch.Tensor
    nbytes: int
    is_copy: bool
    transfer: _core.Transfer | None = None  # None: it has no tensors

    @property
    def is_microbatch(self) -> bool:
        return not is_event(self.structure)

    def deliver(self) -> Arrived:
        if self.transfer is not None:
            self.stager.make_wait(self.transfer, self.memory.current_stream())
            self.memory.hand_over(self.slab)
        produced = unpack(self.structure, tensors_in(self.slab, self.leaves), None)
        return Arrived(produced, self.nbytes, self.is_copy)


@dataclass(slots=True)
class _Held:
    """A microbatch that is still in its slot."""

    record: Any

    def deliver(self) -> Arrived:
        return deliver(self.record, None)


@dataclass(slots=True)
class _End:
    """The end of a pass, or its failure."""

    reason: Exception
    is_microbatch = False

    def deliver(self) -> Arrived:
        raise self.reason
