"""The state of a `ShardedDataLoader`: written, read, and put together from those of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fkat.data import _state as state
from fkat.data._fingerprint import Description, differences
from fkat.data._loader import INT64_MAX, Place
from fkat.data._shard_plan import Dealing, Position, describe_shards
from fkat.data._shard_samplers import ShardSampler
from fkat.data.errors import StateError

_KIND = "ShardedDataLoader"
_KEYS: dict[str, state.Kind] = {
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
    dealings = _dealings(place, loaded, sampler)
    order = describe_shards(sampler, place.epoch, dealings[0].dp_size)
    return {
        **state.header(_KIND),
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
    state_dict: dict[str, Any], sampler: ShardSampler, seed: int, dp_rank: int, strict: bool
) -> Loaded:
    """What a state dict says, compared with what this rank has.

    Raises:
        StateError: It is no state of a `ShardedDataLoader`, or of a number of ranks that the
            sampler cannot deal to.
        ResumeMismatchError: Seed or shards differ, and ``strict`` is True.
    """
    if isinstance(state_dict, dict) and list(state_dict) == ["all_rank_indices"]:
        return _read_published(state_dict, sampler)
    state.check(state_dict, _KIND, _KEYS)
    fingerprint = state_dict["fingerprint"]
    state.check_keys(fingerprint, _KIND, _FINGERPRINT_KEYS)
    for key in ("epoch", "microbatch"):
        if not 0 <= state_dict[key] <= INT64_MAX:
            raise StateError(f"{key!r} in this state of {_KIND} is {state_dict[key]}")
    try:
        dealings = tuple(Dealing.from_list(dealing) for dealing in state_dict["dealings"])
        shards = tuple((name, value) for name, value in fingerprint["shards"])
        described = tuple((name, value) for name, value in fingerprint["source"])
    except (TypeError, ValueError) as error:
        raise StateError(f"this state of {_KIND} is damaged: {error}") from error
    if not dealings:
        raise StateError(f"'dealings' in this state of {_KIND} is empty")
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


def merge(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """See `ShardedDataLoader.merge_state_dicts`."""
    if not states:
        raise StateError("no states to merge")
    for one in states:
        state.check(one, _KIND, _KEYS)
    # A rank whose shards are used up is at the beginning of the next epoch already.
    epoch = min(one["epoch"] for one in states)
    is_over = [(one["epoch"], one["microbatch"]) == (epoch + 1, 0) for one in states]
    in_epoch = [one for one, over in zip(states, is_over, strict=True) if not over]
    first = in_epoch[0]
    for key in ("seed", "epoch", "microbatch"):
        if any(one[key] != first[key] for one in in_epoch):
            raise StateError(
                f"states of different runs or times: {key!r} is {[one[key] for one in states]}"
            )
    last = [Dealing.from_list(one["dealings"][-1]) for one in states]
    if any(dealing.dp_size != len(states) for dealing in last):
        raise StateError(
            f"{len(states)} states, written by {[dealing.dp_size for dealing in last]} ranks"
        )
    positions = (
        None if over else dealing.positions[rank]
        for rank, (dealing, over) in enumerate(zip(last, is_over, strict=True))
    )
    num_finished = last[is_over.index(False)].num_finished
    merged = Dealing(num_finished, tuple(positions))
    indices = [
        first["all_rank_indices"][rank] if over else states[rank]["all_rank_indices"][rank]
        for rank, over in enumerate(is_over)
    ]
    dealings = [*first["dealings"][:-1], merged.to_list()]
    return {**first, "dealings": dealings, "all_rank_indices": indices}


def _dealings(place: Place, loaded: Loaded | None, sampler: ShardSampler) -> tuple[Dealing, ...]:
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
    last = dealings[-1]
    # Shards are counted from the beginning of the epoch as long as it was not dealt anew.
    counted = [d for d in dealings if d.dp_size == last.dp_size]
    indices = []
    for rank in range(last.dp_size):
        positions = [dealing.positions[rank] for dealing in counted]
        known = [position.piece for position in positions if position is not None]
        if len(known) == len(positions):
            indices.append(sum(known) - 1)
        else:  # what the sampler knows it to have handed out, less those that are still read
            handed_out = int(sampler.all_rank_indices[rank])
            indices.append(max(handed_out - num_shard_prefetches - 1, -1))
    return [torch.tensor(index, dtype=torch.int64) for index in indices]


def _read_published(state_dict: dict[str, Any], sampler: ShardSampler) -> Loaded:
    try:
        finished = [int(index) for index in state_dict["all_rank_indices"]]
    except (TypeError, ValueError) as error:
        raise StateError(
            "'all_rank_indices' must be a list of integer tensors of one element, got "
            f"{state_dict['all_rank_indices']!r}"
        ) from error
    if not finished:
        raise StateError("'all_rank_indices' is empty: it has an index for every rank")
    loaded = _after_shards(sampler.epoch, finished)
    try:
        ranks = sampler.deal(sampler.epoch, len(finished))
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
    return loaded


def _after_shards(epoch: int, finished: Sequence[int]) -> Loaded:
    # Microbatches are counted from here on, so that was a dealing of its own.
    positions = tuple(Position(max(index, -1) + 1) for index in finished)
    anew = Dealing(0, (Position(),) * len(finished))
    return Loaded(epoch, 0, (Dealing(0, positions), anew))
