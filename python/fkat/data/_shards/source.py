"""What one of several producers delivers of an epoch's shards: every so many-th, in order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

from fkat.data._seeding import Seeder
from fkat.data._shards.names import Shard
from fkat.data._shards.plan import Dealing, Piece, Position, own_pieces
from fkat.data._shards.samplers import ShardSampler
from fkat.data._source.fingerprint import Description, Start, Trail
from fkat.data._source.note import (
    NO_DIGEST,
    Delivered,
    Described,
    Ends,
    Notice,
    Produced,
    ShardDone,
)
from fkat.data._source.source import Source
from fkat.data._transport.remote_error import with_text
from fkat.data._transport.work import PassSource
from fkat.data.errors import ResumeMismatchError

SHARD = "shard"  # the fact that says which is described: its epoch, and its number in that


@dataclass(frozen=True)
class ShardResume:
    """An epoch that does not begin at its beginning.

    Attributes:
        epoch: Which one.
        dealings: How it was divided before, and how far the ranks got.
        described: What the loader of the shard described last was made of.
        is_same_part: Whether a rank draws the same indices of a shard as the one that read it.
        is_strict: Whether a difference is an error.
        num_done: Shards of the pass that came before, so that one of several producers that begins
            in its middle keeps its turns.
    """

    epoch: int
    dealings: tuple[Dealing, ...]
    described: Description
    is_same_part: bool
    is_strict: bool
    num_done: int = 0


@dataclass(frozen=True)
class ShardWork:
    """The shards of one rank, epoch after epoch, or the part of one of its producers.

    Attributes:
        factory: The user's; called with a shard.
        seeder: Of this rank.
        sampler: Deals the shards of an epoch.
        skips_errors: Whether a shard with an error in it is given up; else the epoch fails.
        is_lazy: A pass is one shard, the one with the number it was begun with, so that the next is
            not opened before the trainer wants it.
        producer: Number of this producer.
        num_producers: Producers that take turns.
    """

    factory: Callable[[Shard], Iterable[Any]]
    seeder: Seeder
    sampler: ShardSampler
    skips_errors: bool
    is_lazy: bool
    profiler: Any = None
    resume: ShardResume | None = None
    producer: int = 0
    num_producers: int = 1

    def of_producer(self, number: int, num_producers: int, num_done: int = 0) -> ShardWork:
        """The part of producer ``number``, which begins after ``num_done`` shards of the pass."""
        resume = self.resume and replace(self.resume, num_done=num_done)
        return replace(self, producer=number, num_producers=num_producers, resume=resume)

    def open(self) -> PassSource:
        """What the producer runs."""
        return _ShardPasses(self)


class _ShardPasses:
    def __init__(self, work: ShardWork) -> None:
        self._work = work
        self._own: list[Piece]  # of this rank, in the epoch of the pass
        self._is_compared: bool  # whether a shard's loader was, with the state resumed from

    @property
    def num_workers(self) -> int:
        return 1  # of several producers each was told its share at once

    def length(self, epoch: int) -> int | None:
        del epoch
        return None  # only opening every shard would tell

    def iterate(self, epoch: int, start: int) -> Iterator[Produced]:
        work = self._work
        resume = work.resume if work.resume is not None and work.resume.epoch == epoch else None
        if start == 0:  # else a lazy one goes on in its epoch
            dealings = () if resume is None else resume.dealings
            self._own = own_pieces(work.sampler, epoch, dealings, partial(self._locate, epoch))
            self._is_compared = resume is None
        num_done = 0 if resume is None else resume.num_done
        whose = slice((work.producer - num_done) % work.num_producers, None, work.num_producers)
        turns = self._own[start : start + 1] if work.is_lazy else self._own[whose]
        for piece in turns:
            yield from self._piece(epoch, piece, resume)

    def _locate(self, epoch: int, pieces: Sequence[Piece], num_finished: int) -> Position:
        """Where a rank is after so many microbatches: from the lengths of the shards' loaders."""
        left = num_finished
        for piece in pieces:
            if left == 0:
                return Position(piece.turn)
            length = self._length(epoch, piece, left + 1)
            if left < length:
                return Position(piece.turn, Trail((), piece.begin.offset + left, NO_DIGEST))
            left -= length
        return Position(len(pieces))

    def _length(self, epoch: int, piece: Piece, at_most: int) -> int:
        """Microbatches of a piece; no more than so many are read where only that tells."""
        start = Start(piece.begin, piece.inner)
        try:
            source = self._open(piece)
            length = source.length(start)
            if length is not None:
                return length
            made = (type(produced) is Delivered for produced in source.iterate(epoch, start))
            return sum(itertools.islice(filter(None, made), at_most))
        except Exception as error:
            if not self._work.skips_errors:
                _raise_named(error, piece)
            return 0  # so its rank had none of it, if it could not be opened then, either

    def _open(self, piece: Piece) -> Source:
        seeder = self._work.seeder.of_shard(piece.number)
        return Source(partial(_loader_of, self._work.factory, piece.shard), seeder)

    def _piece(self, epoch: int, piece: Piece, resume: ShardResume | None) -> Iterator[Produced]:
        """What is left of one shard."""
        start = Start(piece.begin, piece.inner)
        was_skipped = False
        try:
            source = self._open(piece)
            is_empty = source.length() == 0  # and says nothing of the others
            if resume is not None:
                described = () if is_empty else self._expected(resume, piece)
                start = replace(
                    start,
                    described=described,
                    is_same_part=resume.is_same_part,
                    is_strict=resume.is_strict,
                )
            stream = source.iterate(epoch, start)
            now = next(stream)
            if isinstance(now, Described) and not is_empty:
                yield Described((*now.source, (SHARD, f"{epoch}/{piece.number}")))
            yield from map(partial(_placed, piece, piece is self._own[-1]), stream)
        except Exception as error:
            if not self._work.skips_errors or isinstance(error, ResumeMismatchError):
                _raise_named(error, piece)
            was_skipped = True
            yield Notice(f"skipped, because of {type(error).__name__} {_named(error, piece)}")
        yield ShardDone(piece.turn, was_skipped)

    def _expected(self, resume: ShardResume, piece: Piece) -> Description:
        """What the loader of the first piece should be made of; of each later one, anything."""
        if self._is_compared:
            return ()
        self._is_compared = True
        before = resume.described
        if dict(before).get(SHARD) == f"{resume.epoch}/{piece.number}":
            return tuple(fact for fact in before if fact[0] != SHARD)
        return common_facts(before, before)  # which have held for every shard so far


def common_facts(before: Description, now: Description) -> Description:
    """What holds for both of two shards' loaders; nothing that is a shard's own."""
    return tuple(f for f in now if f in before and f[0] != SHARD and not f[0].startswith("len("))


def _named(error: Exception, piece: Piece) -> Exception:
    return with_text(error, f"in shard {piece.shard!r}: {error}")


def _raise_named(error: Exception, piece: Piece) -> NoReturn:
    named = _named(error, piece)
    raise named from (error.__cause__ if named is error else error)


def _loader_of(factory: Callable[[Shard], Iterable[Any]], shard: Shard) -> Iterable[Any]:
    try:
        return factory(shard)
    except ValueError as error:
        # A DataLoader with shuffle=True refuses an empty dataset (RandomSampler.__init__ of torch),
        # one without does not. A shard may be empty.
        if "got num_samples=0" in str(error):
            return ()
        raise


def _placed(piece: Piece, is_last: bool, produced: Produced) -> Produced:
    """What a shard's source says, as it is to be understood in the epoch."""
    if type(produced) is Notice:
        return Notice(f"in shard {piece.shard!r}: {produced.text}")
    if type(produced) is not Delivered:
        return produced
    ends = produced.mark.ends
    if ends is Ends.EPOCH and not is_last:
        ends = Ends.SHARD
    return produced._replace(mark=produced.mark._replace(shard=piece.turn, ends=ends))
