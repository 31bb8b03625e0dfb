"""`ShmDataLoader`: microbatches from producer processes through shared memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch import distributed
from torch.utils.data import DataLoader

from fkat.data import _arguments as arguments
from fkat.data import _state as state
from fkat.data._factory import DataLoaderFactory
from fkat.data._loader import INT64_MAX, FedLoader, T_co
from fkat.data._options import MAX_PREFETCHES
from fkat.data._place import Place, Standing, place_of
from fkat.data._seeding import Seeder
from fkat.data._source import worker_places
from fkat.data._source.collate import empty, empty_array
from fkat.data._source.existing import Existing
from fkat.data._source.fingerprint import Description, Start, Trail
from fkat.data._source.indices import WHOLE, Part
from fkat.data._source.stateful import from_checkpoint, to_checkpoint
from fkat.data._transport.feed import Feed, LoaderStats
from fkat.data._transport.local_feed import LocalFeed
from fkat.data._transport.work import LoaderWork, Resume
from fkat.data._transport.worker_feed import WorkerFeed
from fkat.data.errors import StateError

__all__ = ["DataLoaderFactory", "LoaderStats", "ShmDataLoader", "empty", "empty_array"]


class ShmDataLoader(FedLoader[T_co]):
    """A data loader whose microbatches are made in other processes and read from shared memory.

    It yields the same microbatches in the same order as the loader that ``dataloader_factory``
    returns. Tensors and numpy arrays in host memory are views of shared memory: they stay right for
    as long as they are kept, may be written to, and survive the loader.

    The loader is its own iterator. ``iter()`` begins the next epoch if the current one has
    delivered anything, and begins an epoch that failed again. The producers are started by
    ``iter()``, ``next()`` or ``len()``, or by `prepare`, which is for the time in which the trainer
    has other things to do first; they serve every epoch. Two loops at once need two loaders.

    Args:
        seed: Python, numpy and torch are seeded for every microbatch from (seed, dp_rank, epoch,
            position).
        dataloader_factory: Called in the producer; returns a ``DataLoader`` or any iterable of
            microbatches. Must be picklable unless processes are started by fork. A ``DataLoader``
            with ``num_workers=N`` is run by N producers (over an iterable dataset only without
            ``dp_size``), each of which calls it: what it loads into memory is there N times
            (`from_dataloader` loads it once). With ``in_order=False`` (and without ``dp_size``) a
            microbatch is delivered when it is ready; what is in it does not depend on that.
        num_microbatch_prefetches: At most so many microbatches are published ahead of the trainer,
            by all producers (each at least one); 0 makes each on demand; -1 makes as many as the
            memory budget admits (at most 503). The ``prefetch_factor`` of a ``DataLoader`` that the
            factory returns has no effect.
        dp_rank: Data-parallel rank. Ranks that share one see the same microbatches.
        profiler: A Lightning ``Profiler``, run in the producer; the name of its report gets the pid
            as a suffix.
        device: Where tensors are delivered; None: in host memory. To a CUDA device they are copied
            from shared memory on a stream of their own, while the training step computes. The
            tensors of a microbatch share one storage there: ``clone()`` what you keep for long or
            save, and before ``resize_`` or ``out=`` with another shape.
        multiprocessing: False makes the same microbatches in the calling thread, for debugging.
        multiprocessing_context: Start method or context, as in ``DataLoader``; None for
            multiprocessing's default.
        timeout: Longest wait for a microbatch, in seconds; 0 for no limit.
        memory_budget_nbytes: What may be published ahead, in bytes, of which each of N producers
            has an N-th; None for a quarter of the memory available to this process (limits of its
            cgroups included).
        max_microbatch_nbytes: Address space reserved for a microbatch, in bytes. Costs no memory.
        device_prefetch: With a CUDA device, at most so many microbatches (0 to 7) are on their way
            there, or waiting there, behind the next one; of several producers each may have one.
        max_restarts: A producer that dies (killed, out of memory, a crash in user code) is started
            again where it stopped, with a log line, so many times in a row without a microbatch
            between them; then, or with 0 at once, its death is raised.
        dp_size: Data-parallel ranks among which the factory's microbatches are dealt: this one gets
            number dp_rank, dp_rank + dp_size, ... of every epoch, and a state saved by any number
            of ranks can be resumed by another number. None if the factory sees to it that each
            rank gets its own, with a ``DistributedSampler`` for example.
        drop_last: With ``dp_size``, whether the last microbatches of an epoch are left out when
            they do not suffice for every rank.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a value that cannot work.

    Iterating raises what user code raised (with the producer's traceback in the text),
    `fkat.data.errors.ProducerDiedError` after ``max_restarts``, ``MemoryError`` when a slot
    cannot grow, ``ValueError`` for a microbatch larger than ``max_microbatch_nbytes`` or
    ``memory_budget_nbytes``, ``TypeError`` for one that cannot be pickled, and
    `fkat.data.errors.StalledError` after ``timeout``, when asking again waits again. With a
    ``device`` also `fkat.data.errors.DeviceError` when it cannot be used or a copy to it fails, and
    ``torch.cuda.OutOfMemoryError``, when asking again tries again. After ``load_state_dict`` also
    `fkat.data.errors.ResumeMismatchError`.
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
        device_prefetch: int = 2,
        max_restarts: int = 3,
        dp_size: int | None = None,
        drop_last: bool = True,
    ) -> None:
        super().__init__(
            seed,
            dataloader_factory,
            num_microbatch_prefetches,
            dp_rank,
            profiler,
            device,
            multiprocessing,
            multiprocessing_context,
            timeout,
            memory_budget_nbytes,
            max_microbatch_nbytes,
            device_prefetch,
            max_restarts,
        )
        self._dp_size = arguments.optional_integer("dp_size", dp_size, minimum=1)
        drop_last = arguments.boolean("drop_last", drop_last)
        self._part = WHOLE
        if self._dp_size is not None:
            arguments.integer("dp_rank", dp_rank, minimum=0, maximum=self._dp_size - 1)
            self._part = Part(self._dp_rank, self._dp_size, drop_last)
        self._is_same_part = True  # whether this rank wrote the state it resumes, or could have

    @classmethod
    def from_dataloader(
        cls, dataloader: DataLoader[T_co], *, seed: int = 0, **options: Any
    ) -> ShmDataLoader[T_co]:
        """The same microbatches in the same order as those of a ``DataLoader`` that exists.

        Its ``num_workers``, ``worker_init_fn``, ``generator``, ``persistent_workers`` and
        ``in_order`` mean what they mean in PyTorch, and so do ``timeout``,
        ``multiprocessing_context`` and ``prefetch_factor`` (microbatches ahead by each worker; with
        ``num_workers=0`` the default of ``num_microbatch_prefetches`` holds) unless ``options`` say
        otherwise. ``pin_memory`` has no effect: ``device="cuda"`` copies from page-locked memory.

        The ``DataLoader`` is left as it is, and may be used beside this. Forked producers share its
        dataset with this process, copy-on-write: it is built once and loaded once. Under spawn and
        forkserver each gets it pickled.

        Args:
            dataloader: A ``DataLoader``, or what is derived from it.
            seed: As in the constructor; it gives a shuffled epoch its order, unless there is a
                ``generator``. 0 by default, and not drawn from torch's global generator as
                ``DataLoader`` draws it, so that another run can resume this one: to follow
                ``torch.manual_seed`` give ``torch.initial_seed()``.
            **options: Keyword arguments of the constructor.

        Raises:
            TypeError: ``dataloader`` is no ``DataLoader``, or an option is wrong.
            ValueError: An option has a value that cannot work.
        """
        if not isinstance(dataloader, DataLoader):
            raise TypeError(
                f"dataloader must be a torch DataLoader, got a {type(dataloader).__name__}; for "
                "another iterable, give the constructor a dataloader_factory that makes it"
            )
        taken: dict[str, Any] = {
            "timeout": dataloader.timeout,
            "multiprocessing_context": dataloader.multiprocessing_context,
        }
        if dataloader.num_workers > 0:
            num_ahead = dataloader.num_workers * (dataloader.prefetch_factor or 2)
            taken["num_microbatch_prefetches"] = min(num_ahead, MAX_PREFETCHES)
        return cls(seed, Existing(dataloader), **{**taken, **options})

    def __len__(self) -> int:
        """Microbatches in the epoch, also if it was begun by another run; TypeError if not known.

        Starts the producer, which alone can tell.
        """
        if self._has_failed:
            self._restart(self._epoch)
        try:
            length = self._length()
        except Exception as error:
            self._fail(error)
            if self._has_failed and not self._has_delivered:
                # list() takes a TypeError from here for "no length": next() shall say it again.
                self._restart(self._epoch)
            raise
        if length is None:
            raise TypeError("the loader that dataloader_factory returned has no len()")
        return length

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Go on where another loader of the same data stopped; ``{}`` changes nothing.

        The data is compared with that of the state when the next microbatch is asked for, since the
        dataset lives in the producer: `fkat.data.errors.ResumeMismatchError` then says what
        differs and where.

        Args:
            state_dict: What `state_dict` returned, on any rank.
            strict: False makes warnings of differences in data, seed and number of processes.

        Raises:
            StateError: It is no state of a `ShmDataLoader`, or one of a newer release.
            ResumeMismatchError: The seed or the number of processes differs.
        """
        if state_dict == {}:
            return
        state_dict = _upgraded(state_dict)
        state.check(state_dict, "ShmDataLoader", _KEYS)
        fingerprint = state_dict["fingerprint"]
        state.check_keys(fingerprint, "ShmDataLoader", _FINGERPRINT_KEYS)
        place, described = _read(state_dict)
        dp_size = state_dict["dp_size"]
        if (dp_size is None) != (self._dp_size is None):
            raise StateError(
                f"this state was written with dp_size={dp_size}, this loader has dp_size="
                f"{self._dp_size}: only one of them deals its microbatches among ranks"
            )
        self._compare(state_dict, strict)
        part = fingerprint["part"]
        self._is_same_part = self._dp_size is not None or part == self._process()
        self._is_strict = strict
        self._resume_at(place, described)

    def _compare(self, state_dict: dict[str, Any], strict: bool) -> None:
        found = []
        if state_dict["seed"] != self._seed:
            found.append(f"seed was {state_dict['seed']}, is {self._seed}")
        was, is_ = state_dict["fingerprint"]["part"][-1:], self._process()[1:]
        if self._dp_size is None and was != is_:
            found.append(
                f"the number of processes was {was[0]}, is {is_[0]} (with dp_size the loader deals "
                "an epoch among ranks itself, and may be resumed by another number of them)"
            )
        state.object_to(found, strict)

    def _process(self) -> list[int]:
        """Whose part of the data this is, where the factory decides: process rank and number."""
        if distributed.is_available() and distributed.is_initialized():
            return [distributed.get_rank(), distributed.get_world_size()]
        return [self._dp_rank, 1]

    def _work(self, begin: Place | None) -> LoaderWork:
        # Dealt among ranks, a microbatch is the same whichever of them it goes to.
        seeder = Seeder(self._seed, self._dp_rank if self._dp_size is None else 0)
        resume = self._resume_from(begin)
        return LoaderWork(self._factory, seeder, self._profiler, self._part, resume)

    def _open_feed(self, begin: Place | None) -> Feed:
        if not self._multiprocessing:
            return LocalFeed(self._work(begin))
        known = self._factory.dealing(self._part) if isinstance(self._factory, Existing) else None
        return WorkerFeed(self._work(begin), self._options, self._device, known)

    def _resume_from(self, place: Place | None) -> Resume | None:
        if place is None:
            return None
        start = Start(
            place.trail,
            place.inner,
            self._described,
            self._is_same_part,
            self._is_strict,
            place.workers,
        )
        return Resume(place.epoch, start, place.microbatch)

    def _snapshot_of(self, at: Standing) -> Callable[[], dict[str, Any]]:
        return partial(self._write, at, self._described)

    def _write(self, at: Standing, described: Description) -> dict[str, Any]:
        place = place_of(at)
        return {
            **state.header("ShmDataLoader"),
            "seed": self._seed,
            "dp_size": self._dp_size,
            "epoch": place.epoch,
            "microbatch": place.microbatch,
            "fingerprint": {
                "source": [list(fact) for fact in described],
                "trail": place.trail.to_list(),
                "part": self._process(),
            },
            "inner": to_checkpoint(place.inner),
            "workers": worker_places.to_list(place.workers),
        }


_KEYS: dict[str, state.Kind] = {
    "seed": int,
    "dp_size": (int, type(None)),
    "epoch": int,
    "microbatch": int,
    "fingerprint": dict,
    "inner": (bytes, type(None)),
    "workers": (list, type(None)),
}
_FINGERPRINT_KEYS: dict[str, state.Kind] = {"source": list, "trail": list, "part": list}


def _upgraded(state_dict: Any) -> Any:
    """A state as the present format has it: until version 2 no worker was counted alone."""
    if isinstance(state_dict, dict) and state_dict.get("version") == 1:
        return {"workers": None, **state_dict}
    return state_dict


def _read(state_dict: dict[str, Any]) -> tuple[Place, Description]:
    for key in ("epoch", "microbatch"):
        if not 0 <= state_dict[key] <= INT64_MAX:
            raise StateError(f"{key!r} in this state of ShmDataLoader is {state_dict[key]}")
    fingerprint = state_dict["fingerprint"]
    part = fingerprint["part"]
    if len(part) != 2 or not all(type(number) is int for number in part):
        raise StateError(f"'part' in this state of ShmDataLoader is {part!r}, not [rank, number]")
    try:
        trail = Trail.from_list(fingerprint["trail"])
        described = tuple((name, value) for name, value in fingerprint["source"])
        dict(described)  # names that are none
    except (TypeError, ValueError) as error:
        raise StateError(f"the fingerprint in this state of ShmDataLoader: {error}") from error
    try:
        workers = worker_places.from_list(state_dict["workers"], state_dict["microbatch"])
    except ValueError as error:
        raise StateError(f"'workers' in this state of ShmDataLoader: {error}") from error
    inner = from_checkpoint(state_dict["inner"])
    place = Place(state_dict["epoch"], state_dict["microbatch"], 0, trail, inner, workers)
    return place, described
