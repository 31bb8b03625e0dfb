"""The states of all ranks of a `ShardedDataLoader`, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fkat.data import _state as state
from fkat.data._shards.plan import Dealing
from fkat.data._shards.state import KEYS, KIND, read_dealings
from fkat.data.errors import StateError


def merge(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """See `ShardedDataLoader.merge_state_dicts`."""
    if not states:
        raise StateError("no states to merge")
    for one in states:
        state.check(one, KIND, KEYS)
    # A rank whose shards are used up is at the beginning of the next epoch already.
    epoch = min(one["epoch"] for one in states)
    is_over = [(one["epoch"], one["microbatch"]) == (epoch + 1, 0) for one in states]
    in_epoch = [one for one, over in zip(states, is_over, strict=True) if not over]
    first = in_epoch[0]
    dealt = [read_dealings(one) for one in states]
    for key in ("seed", "epoch", "microbatch"):
        if any(one[key] != first[key] for one in in_epoch):
            raise StateError(
                f"states of different runs or times: {key!r} is {[one[key] for one in states]}"
            )
    if all(one["dealings"] == first["dealings"] for one in states):
        return dict(first)  # nobody has gone on since it was loaded, or there is one rank
    last = [dealings[-1] for dealings in dealt]
    if any(dealing.dp_size != len(states) for dealing in last):
        raise StateError(
            f"{len(states)} states, written by {[dealing.dp_size for dealing in last]} ranks"
        )
    if any(one["dealings"][:-1] != first["dealings"][:-1] for one in in_epoch):
        raise StateError("states of different runs: the epoch was resumed at different places")
    positions = (
        None if over else dealing.positions[rank]
        for rank, (dealing, over) in enumerate(zip(last, is_over, strict=True))
    )
    merged = Dealing(last[is_over.index(False)].num_finished, tuple(positions))
    indices = [
        first["all_rank_indices"][rank] if over else states[rank]["all_rank_indices"][rank]
        for rank, over in enumerate(is_over)
    ]
    dealings = [*first["dealings"][:-1], merged.to_list()]
    return {**first, "dealings": dealings, "all_rank_indices": indices}
