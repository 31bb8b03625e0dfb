"""Which shards an epoch has, in which order, and which rank reads which."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch

from fkat.data import _arguments as arguments
from fkat.data._seeding import derive_seed
from fkat.data._shards.names import Shard, checked_shard, merged, read_indices, shuffled

_ORDER = -1  # the "dp_rank" that orders shards; microbatches are seeded with those from 0


class ShardSampler(Iterable[Shard]):
    """Shards in order. A base class: derive from it and set ``shards``, or define ``__iter__``.

    `deal` says the whole of an epoch, whatever was iterated. Iterating yields the shards of this
    rank after ``index``; once the last was yielded, the next ``iter()`` begins the next epoch.

    An ``__iter__`` of one's own must yield the same in the same epoch; it sees the epoch in
    ``self.epoch``.

    Attributes:
        shards: The shards, each a str or a list of str.
        index: Of the last shard that iterating yielded; -1 before the first of the epoch.
        epoch: The epoch that iterating is in.
        dp_size: Ranks that `deal` deals to.
        dp_rank: The one whose shards iterating yields.
    """

    # On the class: a derived one need not call __init__.
    shards: Sequence[Shard] = ()
    index: int = -1
    epoch: int = 0
    dp_size: int = 1
    dp_rank: int = 0
    _last_known: Sequence[int] = ()  # the indices of all ranks, as last loaded

    def deal(self, epoch: int, dp_size: int | None = None) -> list[list[Shard]]:
        """Every rank's shards of an epoch, in order; changes nothing.

        Args:
            epoch: The epoch, from 0.
            dp_size: Deal as if to so many ranks; None for its own number.

        Returns:
            ``dp_size`` lists; that of rank r at index r.

        Raises:
            ValueError: It cannot deal to so many ranks.
            TypeError: What is dealt is no str or list of str.
        """
        epoch = arguments.integer("epoch", epoch, minimum=0)
        dp_size = arguments.integer(
            "dp_size", self.dp_size if dp_size is None else dp_size, minimum=1
        )
        if type(self).__iter__ is ShardSampler.__iter__:
            return self._deal(epoch, dp_size)
        self._require_one_rank(dp_size)
        twin = copy.deepcopy(self)  # the position of this one stays
        twin.index = -1
        twin.set_epoch(epoch)
        # Not list(twin): that asks for the length first, which is counted by dealing.
        return [[checked_shard("a shard sampler", shard) for shard in twin]]

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of ``epoch``; a pass of it that is under way goes on."""
        epoch = arguments.integer("epoch", epoch, minimum=0)
        if epoch != self.epoch or self._is_over():
            self.epoch = epoch
            self.index = -1

    def __iter__(self) -> Iterator[Shard]:
        """The shards of this rank that are left in the epoch; of the next one if none is."""
        if self._is_over():
            self.epoch += 1
            self.index = -1
        epoch, shards = self.epoch, self._own_shards()
        while self.epoch == epoch and self.index + 1 < len(shards):
            self.index += 1
            yield shards[self.index]

    def __len__(self) -> int:
        """Shards of this rank in the epoch."""
        return len(self.deal(self.epoch)[self.dp_rank])

    @property
    def all_rank_indices(self) -> list[torch.Tensor]:
        """``index`` of every rank, 0-dim int64; the others' as last loaded, -1 if never."""
        indices = list(self._last_known) or [-1] * self.dp_size
        indices[self.dp_rank] = self.index
        return [torch.tensor(index, dtype=torch.int64) for index in indices]

    def state_dict(self) -> dict[str, Any]:
        """``{"all_rank_indices": [tensor, ...]}``, one 0-dim int64 tensor for each rank.

        The epoch is not in it: ``set_epoch()`` comes before ``load_state_dict()``.
        """
        return {"all_rank_indices": self.all_rank_indices}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the shard that the state says this rank had reached.

        An index below -1 counts as -1; other implementations write it before the first microbatch.

        Raises:
            ValueError: It is no such state, is of another number of ranks, or of more shards.
        """
        indices = read_indices(state_dict)
        if len(indices) != self.dp_size:
            raise ValueError(
                f"this state is of {len(indices)} ranks, this sampler deals to {self.dp_size}: a "
                "ShardedDataLoader can divide the rest of an epoch anew, a sampler cannot"
            )
        num_shards = len(self)
        if indices[self.dp_rank] >= num_shards:
            raise ValueError(
                f"this state is at shard {indices[self.dp_rank]} (from 0) of rank {self.dp_rank}, "
                f"which has {num_shards} shards now: the shards have changed since it was saved"
            )
        self._last_known = indices
        self.index = indices[self.dp_rank]

    def _deal(self, epoch: int, dp_size: int) -> list[list[Shard]]:
        """The rule of `deal`, for derived classes of this module."""
        del epoch
        self._require_one_rank(dp_size)
        return [[checked_shard("shards", shard) for shard in self.shards]]

    def _own_shards(self) -> list[Shard]:
        # Not deal(): this also serves an overriding __iter__ that calls super().__iter__().
        return self._deal(self.epoch, self.dp_size)[self.dp_rank]

    def _is_over(self) -> bool:
        return self.index >= 0 and self.index + 1 >= len(self._own_shards())

    def _require_one_rank(self, dp_size: int) -> None:
        if dp_size != 1:
            raise ValueError(
                f"a {type(self).__name__} has the shards of one rank, {dp_size} were asked for: "
                "wrap it in a DistributedDataParallelShardSampler"
            )


class ShuffledShardSampler(ShardSampler):
    """The shards of another sampler in an order that depends on (seed, epoch) and nothing else.

    Around a sampler for one rank it shuffles all shards; wrap it in a
    `DistributedDataParallelShardSampler` to deal them, so that each rank reads others each epoch.
    Around a `DistributedDataParallelShardSampler` it shuffles within each rank's block.

    Args:
        sampler: What to shuffle; a list of shards will do.
        seed: Any integer, the same on every rank.

    Raises:
        TypeError: An argument has the wrong type.
    """

    def __init__(self, sampler: ShardSampler | Sequence[Shard], *, seed: int = 0) -> None:
        self._sampler = as_sampler("sampler", sampler)
        self._seed = arguments.integer("seed", seed)
        self.dp_size = self._sampler.dp_size
        self.dp_rank = self._sampler.dp_rank

    @property
    def shards(self) -> list[Shard]:  # type: ignore[override]
        """This rank's shards, in the order of the epoch."""
        return self._own_shards()

    def _deal(self, epoch: int, dp_size: int) -> list[list[Shard]]:
        blocks = self._sampler.deal(epoch, dp_size)
        return [
            shuffled(block, derive_seed(self._seed, _ORDER, epoch, rank))
            for rank, block in enumerate(blocks)
        ]


class DistributedDataParallelShardSampler(ShardSampler):
    """A contiguous block of another sampler's shards for each data-parallel rank.

    Args:
        sampler: The shards of all ranks, the same on each; a list of shards will do.
        dp_size: Data-parallel ranks.
        dp_rank: This one, from 0.
        drop_last: Leave out the last ``len(sampler) % dp_size`` shards, with a warning, so that
            blocks are equally long. Otherwise the first ranks have one more than the last.
        num_uri_merge: Join so many consecutive shards of a block into one (a list; the last may be
            shorter); 0 joins none, -1 all.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Fewer shards than ranks, ``sampler`` deals to several ranks itself, or a number
            is out of bounds.
    """

    def __init__(
        self,
        sampler: ShardSampler | Sequence[Shard],
        dp_size: int,
        dp_rank: int,
        drop_last: bool = True,
        num_uri_merge: int = 0,
    ) -> None:
        self._sampler = as_sampler("sampler", sampler)
        if self._sampler.dp_size != 1:
            raise ValueError(
                f"sampler deals to {self._sampler.dp_size} ranks already; to shuffle across ranks, "
                "put the ShuffledShardSampler inside the DistributedDataParallelShardSampler"
            )
        self.dp_size = arguments.integer("dp_size", dp_size, minimum=1)
        self.dp_rank = arguments.integer("dp_rank", dp_rank, minimum=0, maximum=self.dp_size - 1)
        self._drop_last = arguments.boolean("drop_last", drop_last)
        self._num_uri_merge = arguments.integer("num_uri_merge", num_uri_merge, minimum=-1)
        num_shards = len(self._all_shards(0, self.dp_size))
        if self._drop_last and (num_dropped := num_shards % self.dp_size):
            warnings.warn(
                f"{num_dropped} of {num_shards} shards are left out of every epoch, so that "
                f"{self.dp_size} ranks have {num_shards // self.dp_size} each; drop_last=False "
                "keeps them",
                stacklevel=2,
            )

    @property
    def shards(self) -> list[Shard]:  # type: ignore[override]
        """This rank's shards in the epoch."""
        return self._own_shards()

    def _deal(self, epoch: int, dp_size: int) -> list[list[Shard]]:
        shards = self._all_shards(epoch, dp_size)
        size, num_larger = divmod(len(shards), dp_size)
        if self._drop_last:
            num_larger = 0
        ends = [size * rank + min(rank, num_larger) for rank in range(dp_size + 1)]
        blocks = (shards[begin:end] for begin, end in pairwise(ends))
        return [merged(block, self._num_uri_merge) for block in blocks]

    def _all_shards(self, epoch: int, dp_size: int) -> list[Shard]:
        [shards] = self._sampler.deal(epoch)
        if len(shards) < dp_size:
            raise ValueError(
                f"{len(shards)} shards cannot be dealt to {dp_size} ranks, one each at the "
                "least: write more and smaller shards, or use fewer ranks"
            )
        return shards


def as_sampler(name: str, value: Any) -> ShardSampler:
    """A sampler as it is; a list of shards as a sampler.

    Raises:
        TypeError: It is neither; says which argument (``name``) is meant.
    """
    if isinstance(value, ShardSampler):
        return value
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a ShardSampler or a list of shards, got {value!r}")
    sampler = ShardSampler()
    sampler.shards = [checked_shard(name, shard) for shard in value]
    return sampler
