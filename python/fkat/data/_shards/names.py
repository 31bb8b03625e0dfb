"""What a shard is, and what can be done with a list of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

# What a user's dataset is made of: a path or URI, or several that are read as one.
Shard = str | list[str]


def checked_shard(name: str, shard: Any) -> Shard:
    """A shard as it is.

    Raises:
        TypeError: It is not a str and not a list of one str or more.
    """
    uris = shard if isinstance(shard, list) and shard else [shard]
    if not all(isinstance(uri, str) for uri in uris):
        raise TypeError(f"{name}: a shard is a str or a list of str, got {shard!r}")
    return shard  # type: ignore[no-any-return]


def merged(shards: Sequence[Shard], count: int) -> list[Shard]:
    """Each ``count`` consecutive shards as one list of str; 0 leaves all as they are, -1 joins."""
    if count == 0 or not shards:
        return list(shards)
    step = len(shards) if count == -1 else count
    uris = [[shard] if isinstance(shard, str) else shard for shard in shards]
    return [list(chain(*uris[i : i + step])) for i in range(0, len(uris), step)]


def shuffled(shards: list[Shard], seed: int) -> list[Shard]:
    """In an order that depends on ``seed`` alone, on every machine and Python."""
    # Of Python's generator only random() is documented to stay the same from version to version
    # ("Notes on Reproducibility" of the random module); shuffle() is not.
    draw = random.Random(seed).random
    keys = [draw() for _ in shards]
    return [shards[i] for i in sorted(range(len(shards)), key=keys.__getitem__)]


def read_indices(state: Any) -> list[int]:
    """The index of every rank in a shard sampler's state, -1 before the first shard.

    Raises:
        ValueError: It is no such state.
    """
    if not isinstance(state, dict) or list(state) != ["all_rank_indices"]:
        keys = list(state) if isinstance(state, dict) else f"a {type(state).__name__}"
        raise ValueError(
            f"a shard sampler's state has the key 'all_rank_indices' alone, got {keys}"
        )
    indices = state["all_rank_indices"]
    if not isinstance(indices, list) or not all(map(_is_index, indices)):
        raise ValueError(
            f"'all_rank_indices' must be a list of integer tensors of one element, got {indices!r}"
        )
    return [max(int(index), -1) for index in indices]


def _is_index(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        is_integral = not (value.is_floating_point() or value.is_complex())
        return value.numel() == 1 and is_integral and value.dtype != torch.bool
    return isinstance(value, int) and not isinstance(value, bool)
