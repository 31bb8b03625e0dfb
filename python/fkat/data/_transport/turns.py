"""Which of several workers delivers the next microbatch of a pass, and what its mark then says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fkat.data._source.note import Ends, Mark, WorkerPlace

_NEVER = 1 << 63  # more than any worker delivers: one that has ended


class Turns(Protocol):
    """Of the workers of one pass."""

    def waited_for(self, number: int) -> Sequence[int]:
        """Workers that may deliver microbatch ``number``, the likeliest first; none at the end."""

    def take(self, worker: int, number: int, mark: Mark) -> Mark:
        """The place behind microbatch ``number``, which ``worker`` has delivered with this mark."""

    def end(self, worker: int) -> bool:
        """``worker`` has no more; whether so the pass is over."""


class ByNumber:
    """Microbatch k is that of worker k modulo their number, as ``DataLoader`` deals indices."""

    def __init__(self, num_workers: int, epoch: int) -> None:
        self._workers = [(worker,) for worker in range(num_workers)]
        self._epoch = epoch
        self._digest: int | None = None  # of all indices up to the microbatch delivered last

    def waited_for(self, number: int) -> Sequence[int]:
        return self._workers[number % len(self._workers)]

    def take(self, worker: int, number: int, mark: Mark) -> Mark:
        before, self._digest = self._digest, mark.digest
        if before is not None and before != mark.before:
            raise RuntimeError(
                f"worker {worker} of {len(self._workers)} drew other indices before microbatch "
                f"{number} of epoch {self._epoch} than the worker before it: each draws them all, "
                "so the sampler must draw the same in every process and after every restart. "
                "Derive its order from a fixed seed and set_epoch(), or use num_workers=0"
            )
        return mark

    def end(self, worker: int) -> bool:
        del worker
        return True


class ByCount:
    """Each worker comes to its own end, and is counted alone.

    In order, it is the turn of the one that has delivered least, the first of several. While all
    have more, that is as by number; and one that has ended is passed over, as ``DataLoader`` does.
    So do those that were ahead of others, when they were not in order, wait until all are equal.

    Args:
        places: Where each begins.
        in_order: Whether they take turns; else whichever is ready delivers.
    """

    def __init__(self, places: Sequence[WorkerPlace], in_order: bool) -> None:
        self._places = tuple(places)
        self._num_delivered = sum(place.num_delivered for place in places)
        self._turns = [_NEVER if place.has_ended else place.num_delivered for place in places]
        self._in_order = in_order
        # Those that have not ended; who delivered last is last.
        self._queue = [number for number, place in enumerate(places) if not place.has_ended]

    def waited_for(self, number: int) -> Sequence[int]:
        del number
        if self._in_order and self._queue:
            return (self._turns.index(min(self._turns)),)
        return self._queue

    def take(self, worker: int, number: int, mark: Mark) -> Mark:
        del number
        places = self._places
        has_ended = mark.ends is Ends.EPOCH
        place = WorkerPlace(places[worker].num_delivered + 1, has_ended, mark.digest, mark.inner)
        self._places = (*places[:worker], place, *places[worker + 1 :])
        self._num_delivered += 1
        self._turns[worker] += 1
        self._queue.remove(worker)
        self._queue.append(worker)
        if has_ended:
            self.end(worker)
        ends = Ends.NOTHING if self._queue else Ends.EPOCH
        return Mark(0, self._num_delivered, ends=ends, workers=self._places)

    def end(self, worker: int) -> bool:
        if worker in self._queue:
            self._queue.remove(worker)
            place = self._places[worker]._replace(has_ended=True)
            self._places = (*self._places[:worker], place, *self._places[worker + 1 :])
            self._turns[worker] = _NEVER
        return not self._queue
