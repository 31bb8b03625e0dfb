"""Which of several workers delivers the next microbatch of a pass, and what its mark then says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from fkat.data._source.note import Dealing, Ends, Mark, Marked, WorkerPlace

_OTHER_INDICES = (
    "worker {} of {} drew other indices before microbatch {} of epoch {} than another worker: each "
    "draws them all, so the sampler must draw the same in every process and after every restart. "
    "Derive its order from a fixed seed and set_epoch(), or use num_workers=0"
)


class Turns(Protocol):
    """Of the workers of one pass."""

    def waited_for(self, number: int) -> Sequence[int]:
        """Workers that may deliver microbatch ``number``, the likeliest first; none at the end."""

    def take(self, worker: int, number: int, taken: Marked) -> Marked:
        """Count microbatch ``number``, from ``worker``; that, marked with the place behind it.

        An interrupt finds it counted, and then there is no call until the caller has it, or not.
        """

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

    def take(self, worker: int, number: int, taken: Marked) -> Marked:
        mark = taken[1]
        before, self._digest = self._digest, mark.digest
        if before is not None and before != mark.before:
            num_workers = len(self._workers)
            raise RuntimeError(_OTHER_INDICES.format(worker, num_workers, number, self._epoch))
        return taken

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
        dealing: How they are dealt with.
        epoch: Of the pass, for errors to name.
    """

    def __init__(self, places: Sequence[WorkerPlace], dealing: Dealing, epoch: int) -> None:
        self._dealing = dealing
        self._epoch = epoch
        # In one attribute: an interrupt finds it as it was, or as it is to be.
        self._at = _standing(range(len(places)), tuple(places))
        self._digests: dict[int, int] = {}  # of indices, where one side of a border was seen

    def waited_for(self, number: int) -> Sequence[int]:
        del number
        places, queue = self._at
        if self._dealing.in_order and queue:
            return (min(queue, key=lambda worker: (places[worker].num_delivered, worker)),)
        return queue

    def take(self, worker: int, number: int, taken: Marked) -> Marked:
        microbatch, mark = taken
        count = self._at.places[worker].num_delivered + 1
        self._check(worker, number, count, mark)
        place = WorkerPlace(count, mark.ends is Ends.EPOCH, mark.digest, mark.inner)
        behind = self._with(worker, place)
        num_delivered = sum(place.num_delivered for place in behind.places)
        ends = Ends.NOTHING if behind.queue else Ends.EPOCH
        marked = microbatch, Mark(ends, 0, num_delivered, workers=behind.places)
        self._at = behind
        return marked

    def end(self, worker: int) -> bool:
        self._at = self._with(worker, self._at.places[worker]._replace(has_ended=True))
        return not self._at.queue

    def _with(self, worker: int, place: WorkerPlace) -> _Standing:
        places, queue = self._at
        others = [other for other in queue if other != worker]
        places = (*places[:worker], place, *places[worker + 1 :])
        return _standing([*others, worker], places)  # who delivered last is last

    def _check(self, worker: int, number: int, count: int, mark: Mark) -> None:
        num_workers, is_by_number, _ = self._dealing
        if mark.offset != (worker + (count - 1) * num_workers + 1 if is_by_number else count):
            raise RuntimeError(
                f"microbatch {number} of epoch {self._epoch} is not the one behind those that "
                f"worker {worker} has delivered: an interrupt has lost one. iter() begins anew"
            )
        if not is_by_number:
            return
        for offset, digest in ((mark.offset - 1, mark.before), (mark.offset, mark.digest)):
            seen = self._digests.pop(offset, None)
            if seen is None:
                self._digests[offset] = digest
            elif seen != digest:
                raise RuntimeError(_OTHER_INDICES.format(worker, num_workers, number, self._epoch))


class _Standing(NamedTuple):
    places: tuple[WorkerPlace, ...]
    queue: list[int]  # of those that have not ended


def _standing(queue: Iterable[int], places: tuple[WorkerPlace, ...]) -> _Standing:
    return _Standing(places, [worker for worker in queue if not places[worker].has_ended])
