"""`ShardedDataLoader`: one shard after another, several of them in production at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any

import torch

from fkat.data import _arguments as arguments
from fkat.data._loader import FedLoader, T_co
from fkat.data._place import Place, Standing, place_of
from fkat.data._seeding import Seeder
from fkat.data._shards import state as shard_state
from fkat.data._shards.factory import DataLoaderFactory
from fkat.data._shards.feed import ShardFeed
from fkat.data._shards.files import FsShardSampler
from fkat.data._shards.merge import merge
from fkat.data._shards.names import Shard
from fkat.data._shards.samplers import (
    DistributedDataParallelShardSampler,
    ShardSampler,
    ShuffledShardSampler,
    as_sampler,
)
from fkat.data._shards.source import ShardResume, ShardWork, common_facts
from fkat.data._source.fingerprint import Description
from fkat.data._source.note import Described, Event, Mark
from fkat.data._transport.feed import Feed, LoaderStats
from fkat.data._transport.local_feed import LocalFeed
from fkat.data._transport.producer_feed import ProducerFeed

__all__ = [
    "DataLoaderFactory",
    "DistributedDataParallelShardSampler",
    "FsShardSampler",
    "LoaderStats",
    "Shard",
    "ShardSampler",
    "ShardedDataLoader",
    "ShuffledShardSampler",
]

_ON_SHARD_ERROR = ("raise", "skip")


class ShardedDataLoader(FedLoader[T_co]):
    """A data loader over shards, each read by a loader of its own in a producer process.

    Shards are delivered in the sampler's order, microbatches in that of the shard's loader.
    ``num_shard_prefetches`` producers take turns, each with a ring of its own, so that the next
    shards are open and read while this one is trained on.

    As `ShmDataLoader`, it is its own iterator, one ``iter()`` an epoch, and its tensors are views
    of shared memory.

    Args:
        seed: Python, numpy and torch are seeded for every microbatch from (seed, epoch, shard,
            position in the shard), and from dp_rank if the sampler does not deal among ranks.
        shard_sampler: Which shards, in which order, and which of them are this rank's; a list will
            do. Called in the producers, too.
        dataloader_factory: Called with a shard (a str or a list of str) in a producer; returns a
            ``DataLoader`` or any iterable of microbatches. A shard may have none. Must be picklable
            unless processes are started by fork.
        num_shard_prefetches: Shards in production at once; 0 opens the next one only when the last
            is exhausted.
        num_microbatch_prefetches: At most so many microbatches are published ahead by each
            producer; 0 makes each on demand; -1 as many as the memory budget admits.
        dp_rank: Data-parallel rank. Ranks that share one see the same microbatches.
        profiler: A Lightning ``Profiler``, run in the producers.
        device: Where tensors are delivered; None: in host memory. To a CUDA device they are copied
            from shared memory on a stream of their own, while the training step computes. The
            tensors of a microbatch share one storage there: ``clone()`` what you keep for long or
            save, and before ``resize_`` or ``out=`` with another shape.
        multiprocessing: False makes the same microbatches in the calling thread, for debugging.
        multiprocessing_context: Start method or context, as in ``DataLoader``.
        timeout: Longest wait for a microbatch, in seconds; 0 for no limit.
        memory_budget_nbytes: What may be published ahead by all producers, in bytes; None for a
            quarter of the memory available to this process.
        max_microbatch_nbytes: Address space reserved for a microbatch, in bytes. Costs no memory.
        device_prefetch: With a CUDA device, at most so many microbatches (0 to 7) are on their way
            there, or waiting there, behind the next one.
        max_restarts: A producer that dies (killed, out of memory, a crash in user code) is started
            again where it stopped, with a log line, so many times in a row without a microbatch
            between them; then, or with 0 at once, its death is raised.
        on_shard_error: ``"skip"`` gives up a shard in which an error is raised, with a warning and
            a count in `stats`; ``"raise"`` raises it, naming the shard.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a value that cannot work.

    Iterating raises what that of `ShmDataLoader` raises.
    """

    def __init__(
        self,
        seed: int,
        shard_sampler: ShardSampler | Sequence[Shard],
        dataloader_factory: Callable[[Shard], Iterable[T_co]],
        num_shard_prefetches: int = 0,
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
        on_shard_error: str = "raise",
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
        self._sampler = as_sampler("shard_sampler", shard_sampler)
        self._num_shard_prefetches = arguments.integer(
            "num_shard_prefetches", num_shard_prefetches, minimum=0, maximum=1024
        )
        if on_shard_error not in _ON_SHARD_ERROR:
            raise ValueError(f"on_shard_error must be 'raise' or 'skip', got {on_shard_error!r}")
        self._skips_errors = on_shard_error == "skip"
        self._loaded: shard_state.Loaded | None = None  # while in the epoch that it is of
        if shard_state.is_loaded(self._sampler):
            self._go_on(shard_state.of_sampler(self._sampler))

    def state_dict(self) -> dict[str, Any]:
        """Where the next microbatch stands, in plain types under fixed keys. Starts nothing.

        ``all_rank_indices`` holds the last shard that each rank has finished, -1 for none: what the
        shard sampler has handed out, less the ``num_shard_prefetches + 1`` that are still read. The
        other keys say where in its shard this rank is. Nothing is asked of other ranks: a state of
        one rank can be resumed by all (see `merge_state_dicts`).
        """
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Go on where a loader of the same shards stopped; ``{}`` changes nothing.

        The state may be that of any rank, and of another number of ranks: what was left of the
        epoch is then dealt anew. With a state of one rank alone, where the others were follows from
        the number of microbatches, the same for all, and the lengths of their shards' loaders. That
        of a rank that has run out of shards says nothing of those that have not.

        Args:
            state_dict: What `state_dict` returned; or ``{"all_rank_indices": [tensor, ...]}``, with
                a 0-dim integer tensor for each rank, to begin after those shards.
            strict: False makes warnings of differences in data and seed.

        Raises:
            StateError: It is no state of a `ShardedDataLoader`, or one of a newer release, or the
                sampler cannot deal to as many ranks as it is of.
            ResumeMismatchError: The seed or the shards differ. What a shard's loader is made of is
                compared, and the error raised, when the next microbatch is asked for.
        """
        if state_dict == {}:
            return
        following = self._place.epoch if self._wanted_epoch is None else self._wanted_epoch
        loaded = shard_state.read(
            state_dict, self._sampler, self._seed, self._dp_rank, following, strict
        )
        self._is_strict = strict
        self._go_on(loaded)

    @staticmethod
    def merge_state_dicts(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One state out of those of every rank, taken after the same number of microbatches.

        With it no rank has to look for its place by the lengths of shards' loaders.

        Args:
            states: That of rank r at index r.

        Raises:
            StateError: They are not of one run at one time.
        """
        return merge(states)

    def _go_on(self, loaded: shard_state.Loaded) -> None:
        self._loaded = loaded
        self._resume_at(loaded.place_of(self._sampler), loaded.described)

    def _work(self, begin: Place | None) -> ShardWork:
        # Dealt among ranks, a shard is the same whichever of them reads it.
        dp_rank = self._dp_rank if self._sampler.dp_size == 1 else 0
        return ShardWork(
            self._factory,
            Seeder(self._seed, dp_rank),
            self._sampler,
            self._skips_errors,
            is_lazy=self._num_shard_prefetches == 0,
            profiler=self._profiler,
            resume=self._shard_resume(begin),
        )

    def _open_feed(self, begin: Place | None) -> Feed:
        work = self._work(begin)
        if not self._multiprocessing:
            return ShardFeed([LocalFeed(work)], work.is_lazy)
        num_producers = max(self._num_shard_prefetches, 1)
        options = replace(self._options, num_rings=num_producers)
        works = (work.of_producer(i, num_producers) for i in range(num_producers))
        return ShardFeed(
            [
                ProducerFeed(part, options, self._device, f"producer {i} of {num_producers}")
                for i, part in enumerate(works)
            ],
            work.is_lazy,
        )

    def _shard_resume(self, place: Place | None) -> ShardResume | None:
        if place is None:
            return None
        loaded = self._loaded
        dealings = shard_state.dealings_at(place, loaded, self._sampler)
        is_same_part = loaded is None or loaded.is_same_part
        return ShardResume(place.epoch, dealings, self._described, is_same_part, self._is_strict)

    def _begin(self, place: Place) -> None:
        super()._begin(place)
        if self._resume is None:
            self._loaded = None
        loaded = self._loaded
        self._first_shard = 0 if loaded is None else loaded.num_finished_shards(self._sampler)
        self._num_shards: int | None = None  # of this rank, in this epoch

    def _reach(self, mark: Mark) -> None:
        shard = self._first_shard + mark.shard
        if shard != self._sampler.index - self._num_shard_prefetches:
            self._move_sampler(shard)

    def _take_note(self, event: Event) -> None:
        if isinstance(event, Described):
            # What is the same in all shards so far, and what is the present one's own.
            shared = common_facts(self._described or event.source, event.source)
            own = set(event.source) - set(common_facts(event.source, event.source))
            event = Described((*shared, *(fact for fact in event.source if fact in own)))
        super()._take_note(event)

    def _move_sampler(self, shard: int) -> None:
        """What a sampler would have handed out by now, for whoever looks at it."""
        if self._num_shards is None:
            self._sampler.set_epoch(self._epoch)
            self._num_shards = len(self._sampler)
        self._sampler.index = min(shard + self._num_shard_prefetches, self._num_shards - 1)

    def _snapshot_of(self, at: Standing) -> Callable[[], dict[str, Any]]:
        return partial(self._write, at, self._described, self._loaded)

    def _write(
        self, at: Standing, described: Description, loaded: shard_state.Loaded | None
    ) -> dict[str, Any]:
        place = place_of(at)
        if loaded is not None and loaded.epoch != place.epoch:
            loaded = None
        mine = (self._sampler, self._seed, self._dp_rank, self._num_shard_prefetches)
        return shard_state.write(place, described, loaded, *mine)
