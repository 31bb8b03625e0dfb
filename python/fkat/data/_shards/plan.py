"""Who reads which shards of an epoch, also when it is resumed by another number of ranks.

The sampler deals an epoch's shards among ranks. A resume takes away what each rank has had; if the
number of ranks is another then, what is left is dealt anew. Doing the same steps again gives every
rank of every later run the same division, so that each shard is read once, whoever reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from fkat.data._shards.names import Shard
from fkat.data._shards.samplers import ShardSampler
from fkat.data._source.fingerprint import NO_TRAIL, Description, Trail, describe_order
from fkat.data._source.stateful import from_checkpoint, to_checkpoint


class Position(NamedTuple):
    """How far a rank got in its pieces.

    Attributes:
        piece: Number of the piece it is in; those before are finished.
        trail: Its offset is how many microbatches of the piece's shard are finished.
        inner: State of the user's own loader there, pickled; empty if it has none.
    """

    piece: int = 0
    trail: Trail = NO_TRAIL
    inner: bytes = b""

    def to_list(self) -> list[Any]:
        """As plain types."""
        return [self.piece, self.trail.to_list(), to_checkpoint(self.inner)]

    @staticmethod
    def from_list(read: Any) -> Position:
        """What `to_list` gave; TypeError or ValueError if it is something else."""
        piece, trail, inner = read
        if type(piece) is not int or piece < 0:
            raise ValueError(f"a piece is a number from 0, got {piece!r}")
        return Position(piece, Trail.from_list(trail), from_checkpoint(inner))


class Dealing(NamedTuple):
    """One division of an epoch, or of what was left of it, and how far its ranks got.

    Attributes:
        num_finished: Microbatches that every rank has had since it was dealt.
        positions: Of each rank. None if nothing but ``num_finished`` is known: only one rank's
            state is written, and its shards say nothing about those of others.
    """

    num_finished: int
    positions: tuple[Position | None, ...]

    @property
    def dp_size(self) -> int:
        """The number of ranks."""
        return len(self.positions)

    def to_list(self) -> list[Any]:
        """As plain types."""
        return [self.num_finished, [None if p is None else p.to_list() for p in self.positions]]

    @staticmethod
    def from_list(read: Any) -> Dealing:
        """What `to_list` gave; TypeError or ValueError if it is something else."""
        num_finished, positions = read
        if type(num_finished) is not int or num_finished < 0 or not positions:
            raise ValueError(f"{num_finished!r} microbatches finished by ranks {positions!r}")
        known = (None if p is None else Position.from_list(p) for p in positions)
        return Dealing(num_finished, tuple(known))


class Piece(NamedTuple):
    """What is left of a shard, for one rank.

    Attributes:
        shard: What the user's factory is called with.
        number: Of the shard in the epoch, over all ranks of its first division: what its random
            numbers are derived from, whoever reads it.
        turn: Of the piece among those that its rank was dealt last.
        begin: Digests of what was read before; offset 0 for a whole shard.
        inner: As in `Position`.
    """

    shard: Shard
    number: int
    turn: int
    begin: Trail = NO_TRAIL
    inner: bytes = b""


# Where a rank is in its pieces after so many microbatches: (pieces, microbatches) -> position.
Locate = Callable[[Sequence[Piece], int], Position]


def own_pieces(
    sampler: ShardSampler, epoch: int, dealings: Sequence[Dealing], locate: Locate
) -> list[Piece]:
    """What is left for the rank of ``sampler`` after the dealings before.

    The last of these goes on if it was among as many ranks; its turns do not begin anew then, and
    how far the others got does not matter, so they are not located.
    """
    ranks = first_deal(sampler, epoch, dealings[0].dp_size if dealings else sampler.dp_size)
    for number, dealing in enumerate(dealings, start=1):
        goes_on = number == len(dealings) and dealing.dp_size == sampler.dp_size
        ranks = [
            _rest(pieces, position or locate(pieces, dealing.num_finished))
            if rank == sampler.dp_rank or not goes_on
            else []
            for rank, (pieces, position) in enumerate(
                zip(_dealt(ranks, dealing.dp_size), dealing.positions, strict=True)
            )
        ]
    ranks = ranks if len(ranks) == sampler.dp_size else _dealt(ranks, sampler.dp_size)
    return ranks[sampler.dp_rank]


def first_deal(sampler: ShardSampler, epoch: int, dp_size: int) -> list[list[Piece]]:
    """Whole shards, as the sampler deals them."""
    ranks: list[list[Piece]] = []
    number = 0
    for shards in sampler.deal(epoch, dp_size):
        ranks.append([Piece(shard, number + i, i) for i, shard in enumerate(shards)])
        number += len(shards)
    return ranks


def _dealt(ranks: list[list[Piece]], dp_size: int) -> list[list[Piece]]:
    """The same pieces, in as many blocks as there are ranks, whose sizes differ by one at most."""
    if len(ranks) != dp_size:
        pieces = [piece for rank in ranks for piece in rank]
        size, num_larger = divmod(len(pieces), dp_size)
        ends = [size * rank + min(rank, num_larger) for rank in range(dp_size + 1)]
        ranks = [pieces[begin:end] for begin, end in pairwise(ends)]
    return [[piece._replace(turn=i) for i, piece in enumerate(rank)] for rank in ranks]


def _rest(pieces: list[Piece], position: Position) -> list[Piece]:
    rest = pieces[position.piece :]
    if rest and position.trail.offset:
        rest[0] = rest[0]._replace(begin=position.trail, inner=position.inner)
    return rest


def describe_shards(sampler: ShardSampler, epoch: int, dp_size: int) -> Description:
    """All shards by name, and their order in ``epoch`` when it was first dealt to ``dp_size``."""
    in_all = [shard for rank in sampler.deal(epoch, 1) for shard in rank]
    in_order = [shard for rank in sampler.deal(epoch, dp_size) for shard in rank]
    return (
        *describe_order("shards", sorted(_uris(in_all))),
        *describe_order(f"shards of epoch {epoch},", _uris(in_order)),
    )


def _uris(shards: Iterable[Shard]) -> list[str]:
    """Their URIs, those that were joined one by one, without what all of their folders share."""
    names: list[str] = []
    for shard in shards:
        names.extend([shard] if isinstance(shard, str) else shard)
    folders = [name.rpartition("/")[0] for name in names]
    shared = os.path.commonprefix(folders)  # noqa: RUF071  of text: they may be URIs
    return [name[len(shared) :] for name in names]
