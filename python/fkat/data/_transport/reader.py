"""What is read from a ring, and how it is handed to the trainer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fkat.data import _core
from fkat.data._source.note import Taken
from fkat.data._transport import interruption
from fkat.data._transport.codec import move
from fkat.data._transport.record import unpacker

Arrived = tuple[Taken, int, bool]
"""What a reader delivers, the bytes of its frame in the ring, and whether the frame was copied out
because too many slots were in use."""


class Arrival(Protocol):
    """Something that was read from the ring and not yet delivered."""

    def deliver(self) -> Arrived:
        """It, for the caller; the same each time.

        Raises:
            StopIteration: It is the end of the pass.
        """


class Reader(Protocol):
    """The trainer's way of reading one ring. Used by one thread at a time."""

    def next(self, timeout_s: float | None, number: int) -> Arrived:
        """What comes next; ``number`` is that of the next microbatch in its epoch.

        Raises:
            StopIteration: The pass is over.
            TimeoutError: Nothing came within ``timeout_s``; nothing is lost.
        """

    def next_if_ready(self, number: int) -> Arrived | None:
        """The same if it is there already; None if it is not, or the producer is dead."""

    def share(self, num_rings: int) -> None:
        """What is read ahead is that of so many rings together; each at least one."""

    def drop(self) -> None:
        """Forget what was read and not delivered."""

    def close(self) -> deque[Arrival]:
        """Stop; returns what was read and not delivered."""

    def pinning(self) -> tuple[int, float]:
        """Bytes page-locked now, and seconds spent in page-locking so far."""


def moved(taken: Taken, device: torch.device | None) -> Taken:
    """It, with the tensors of a microbatch on ``device``; None means in host memory."""
    microbatch, mark = taken
    if mark is None:
        return taken
    return move(microbatch, device or torch.device("cpu")), mark


@dataclass(slots=True)
class Held:
    """A microbatch that is still in its slot."""

    record: Any

    def deliver(self) -> Arrived:
        return unpacker().open(self.record)


class HostReader:
    """Microbatches as views of their slots, or copied from there by torch, one at a time."""

    def __init__(self, consumer: _core.Consumer, device: torch.device | None) -> None:
        self._consumer = consumer
        self._open = unpacker(device).open
        # What was read and not delivered: an interrupt came between, or there was no memory for it
        # on the device. Never more than one.
        self._queue: deque[Any] = deque()

    def next(self, timeout_s: float | None, number: int) -> Arrived:
        queue = self._queue
        if not queue:
            self._consumer.acquire(timeout_s, queue.append, interruption.ask)
        arrived = self._open(queue[0])
        del queue[0]  # not popleft(): Python looks at signals behind each call
        return arrived

    def next_if_ready(self, number: int) -> Arrived | None:
        if not self._queue and self._consumer.try_acquire(self._queue.append) is None:
            return None
        return self.next(None, number)

    def share(self, num_rings: int) -> None:
        """Nothing is read ahead here."""

    def drop(self) -> None:
        self._queue.clear()

    def close(self) -> deque[Arrival]:
        left: deque[Arrival] = deque(map(Held, self._queue))
        self.drop()
        return left

    def pinning(self) -> tuple[int, float]:
        return 0, 0.0
