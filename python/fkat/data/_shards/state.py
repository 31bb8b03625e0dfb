"""The state of a `ShardedDataLoader`: written and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch

from fkat.data import _state as state
from fkat.data._loader import INT64_MAX
from fkat.data._place import Place
from fkat.data._shards.names import read_indices
from fkat.data._shards.plan import Dealing, Position, describe_shards
from fkat.data._shards.samplers import ShardSampler
from fkat.data._source.fingerprint import Description, differences
from fkat.data.errors import StateError

KIND = "ShardedDataLoader"
KEYS: dict[str, state.Kind] = {
    "all_rank_indices": list,
    "seed": int,
    "dp_rank": int,
    "epoch": int,
    "microbatch": int,
    "dealings": list,
    "fingerprint": dict,
}
_FINGERPRINT_KEYS: dict[str, state.Kind] = {"shards": list, "source": list}


@dataclass(frozen=True)
class Loaded:
    """A state that was read, as what the rest of its epoch depends on.

    Attributes:
        epoch: The epoch that it is in.
        microbatch: Microbatches of it that each rank has had.
        dealings: How it was divided, and how far the ranks got.
        described: What a shard's loader was made of.
        is_same_part: Whether a rank draws the same indices of a shard as the one that read it.
    """

    epoch: int
    microbatch: int
    dealings: tuple[Dealing, ...]
    described: Description = ()
    is_same_part: bool = True

    def place_of(self, sampler: ShardSampler) -> Place:
        """Where this rank begins; shard 0 where only its producers will know."""
        last = self.dealings[-1]
        own = last.positions[sampler.dp_rank] if last.dp_size == sampler.dp_size else None
        return Place(self.epoch, self.microbatch, *(own or Position()))

    def num_finished_shards(self, sampler: ShardSampler) -> int:
        """This rank's, before its shards were counted anew; 0 after another number of ranks."""
        before = [dealing.positions for dealing in self.dealings[:-1]]
        own = [p[sampler.dp_rank] for p in before if len(p) == sampler.dp_size]
        return sum(position.piece for position in own if position is not None)


def is_loaded(sampler: ShardSampler) -> bool:
    """Whether a sampler was loaded by itself, and neither it nor a loader has gone on since."""
    loaded = sampler._last_known
    return sampler.index >= 0 and bool(loaded) and loaded[sampler.dp_rank] == sampler.index


def of_sampler(sampler: ShardSampler) -> Loaded:
    """What a sampler that was loaded by itself says: it goes on after the shard at its index."""
    finished = [int(index) for index in sampler.all_rank_indices]
    return _after_shards(sampler.epoch, finished)


def write(
    place: Place,
    described: Description,
    loaded: Loaded | None,
    sampler: ShardSampler,
    seed: int,
    dp_rank: int,
    num_shard_prefetches: int,
) -> dict[str, Any]:
    """The state dict of a place.

    Args:
        place: Where the next microbatch of this rank stands.
        described: What a shard's loader is made of.
        loaded: What the epoch was resumed from, if that is the epoch of ``place``.
        sampler: Of this rank.
        seed: The loader's.
        dp_rank: The loader's.
        num_shard_prefetches: The loader's.
    """
    dealings = dealings_at(place, loaded, sampler)
    order = describe_shards(sampler, place.epoch, dealings[0].dp_size)
    return {
        **state.header(KIND),
        "all_rank_indices": _all_rank_indices(dealings, sampler, num_shard_prefetches),
        "seed": seed,
        "dp_rank": dp_rank,
        "epoch": place.epoch,
        "microbatch": place.microbatch,
        "dealings": [dealing.to_list() for dealing in dealings],
        "fingerprint": {
            "shards": [list(fact) for fact in order],
            "source": [list(fact) for fact in described],
        },
    }


def read(
    state_dict: dict[str, Any],
    sampler: ShardSampler,
    seed: int,
    dp_rank: int,
    epoch: int,
    strict: bool,
) -> Loaded:
    """What a state dict says, compared with what this rank has.

    Args:
        state_dict: As the user gave it.
        sampler: Of this rank.
        seed: The loader's.
        dp_rank: The loader's.
        epoch: That of the next microbatch; of a published state, which does not say its own.
        strict: As given to ``load_state_dict``.

    Raises:
        StateError: It is no state of a `ShardedDataLoader`, or of a number of ranks that the
            sampler cannot deal to.
        ResumeMismatchError: Seed or shards differ, and ``strict`` is True.
    """
    if isinstance(state_dict, dict) and list(state_dict) == ["all_rank_indices"]:
        return _read_published(state_dict, sampler, epoch)
    state.check(state_dict, KIND, KEYS)
    fingerprint = state_dict["fingerprint"]
    state.check_keys(fingerprint, KIND, _FINGERPRINT_KEYS)
    for key in ("epoch", "microbatch"):
        if not 0 <= state_dict[key] <= INT64_MAX:
            raise StateError(f"{key!r} in this state of {KIND} is {state_dict[key]}")
    dealings = read_dealings(state_dict)
    try:
        shards, described = _facts(fingerprint["shards"]), _facts(fingerprint["source"])
    except (TypeError, ValueError) as error:
        raise StateError(f"'fingerprint' in this state of {KIND} is damaged: {error}") from error
    epoch = state_dict["epoch"]
    try:
        now = describe_shards(sampler, epoch, dealings[0].dp_size)
    except ValueError as error:
        raise StateError(
            f"the epoch was begun by {dealings[0].dp_size} ranks, and the shard sampler cannot "
            f"tell what those had: {error}"
        ) from error
    found = differences(shards, now)
    if state_dict["seed"] != seed:
        found.insert(0, f"seed was {state_dict['seed']}, is {seed}")
    state.object_to(found, strict)
    is_same_part = sampler.dp_size > 1 or state_dict["dp_rank"] == dp_rank
    return Loaded(epoch, state_dict["microbatch"], dealings, described, is_same_part)


def read_dealings(state_dict: dict[str, Any]) -> tuple[Dealing, ...]:
    """How the epoch was divided; StateError if that is damaged."""
    try:
        dealings = tuple(Dealing.from_list(dealing) for dealing in state_dict["dealings"])
    except (TypeError, ValueError) as error:
        raise StateError(f"'dealings' in this state of {KIND} is damaged: {error}") from error
    counted = sum(dealing.num_finished for dealing in dealings)
    if not dealings or counted != state_dict["microbatch"]:
        raise StateError(
            f"'dealings' in this state of {KIND} is damaged: it counts {counted} microbatches, "
            f"'microbatch' is {state_dict['microbatch']}"
        )
    return dealings


def _facts(read: list[Any]) -> Description:
    facts = tuple((name, value) for name, value in read)
    if not all(isinstance(name, str) for name, _ in facts):
        raise ValueError(f"no list of [name, value]: {read!r}")
    return facts


def dealings_at(place: Place, loaded: Loaded | None, sampler: ShardSampler) -> tuple[Dealing, ...]:
    """How the epoch of a place was divided before it; ``loaded`` as in `write`."""
    before: tuple[Dealing, ...] = ()
    if loaded is not None:
        if place == loaded.place_of(sampler):
            return loaded.dealings
        goes_on = loaded.dealings[-1].dp_size == sampler.dp_size
        before = loaded.dealings[:-1] if goes_on else loaded.dealings
    num_finished = place.microbatch - sum(dealing.num_finished for dealing in before)
    # Before the first microbatch every rank is known to be at the beginning.
    others = None if num_finished else Position()
    positions: list[Position | None] = [others] * sampler.dp_size
    positions[sampler.dp_rank] = Position(place.shard, place.trail, place.inner)
    return (*before, Dealing(num_finished, tuple(positions)))


def _all_rank_indices(
    dealings: Sequence[Dealing], sampler: ShardSampler, num_shard_prefetches: int
) -> list[torch.Tensor]:
    dp_size = dealings[-1].dp_size
    # Shards are counted from the beginning of the epoch, or from where it was dealt anew.
    counted = list(takewhile(lambda dealing: dealing.dp_size == dp_size, reversed(dealings)))[::-1]
    handed_out = [-1] * dp_size
    if dp_size == sampler.dp_size:  # as far as the sampler knows
        handed_out = [int(index) for index in sampler.all_rank_indices]
    indices = []
    for rank in range(dp_size):
        positions = [dealing.positions[rank] for dealing in counted]
        index = sum(position.piece for position in takewhile(bool, positions) if position) - 1
        if None in positions:  # less those that are still read
            index = max(index, handed_out[rank] - num_shard_prefetches - 1)
        indices.append(torch.tensor(index, dtype=torch.int64))
    return indices


def _read_published(state_dict: dict[str, Any], sampler: ShardSampler, epoch: int) -> Loaded:
    try:
        finished = read_indices(state_dict)
    except ValueError as error:
        raise StateError(str(error)) from error
    if not finished:
        raise StateError("'all_rank_indices' is empty: it has an index for every rank")
    try:
        ranks = sampler.deal(epoch, len(finished))
    except ValueError as error:
        raise StateError(
            f"'all_rank_indices' is of {len(finished)} ranks, the shard sampler deals to "
            f"{sampler.dp_size}: {error}"
        ) from error
    for rank, (index, shards) in enumerate(zip(finished, ranks, strict=True)):
        if index >= len(shards):
            raise StateError(
                f"'all_rank_indices' says that rank {rank} finished shard {index} (from 0), it has "
                f"{len(shards)}: the shards have changed since the state was saved"
            )
    return _after_shards(epoch, finished)


def _after_shards(epoch: int, finished: Sequence[int]) -> Loaded:
    # Microbatches are counted from here on, so that was a dealing of its own.
    positions = tuple(Position(max(index, -1) + 1) for index in finished)
    anew = Dealing(0, (Position(),) * len(finished))
    return Loaded(epoch, 0, (Dealing(0, positions), anew))
