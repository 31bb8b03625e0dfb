"""Whether the data of a resumed run is that of the run before it.

Two things are compared. What the source is made of (type and length of the dataset, sampler, batch
size), by name, so that an error can say which of them changed. And a digest of every index up to
the place where the run goes on, kept at a few places on the way, so that it can say where they
begin to differ (see `digest`). No data is read for either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from operator import index
from typing import Any, NamedTuple

from fkat.data._source.note import NO_DIGEST, Mark, Notice, WorkerPlace
from fkat.data._state import explain
from fkat.data.errors import ResumeMismatchError

Description = tuple[tuple[str, Any], ...]

MAX_OFFSET = 2**53  # more than any run gets to; from positions around 2**63 no seed can be made


class Trail(NamedTuple):
    """Digests along the way: at every power of two, or first after it, and the last of all."""

    kept: tuple[tuple[int, int], ...] = ()
    offset: int = 0
    digest: int = NO_DIGEST

    @property
    def next_kept(self) -> int:
        """The offset from which on the next digest is to be kept."""
        return 1 << self.offset.bit_length()

    def then(self, mark: Mark) -> Trail:
        """The trail at a later mark; for none left out that is to be kept."""
        kept = self.kept
        if mark.offset >= self.next_kept:
            kept = (*kept, (mark.offset, mark.digest))
        return Trail(kept, mark.offset, mark.digest)

    def to_list(self) -> list[list[Any]]:
        """As plain types: ``[offset, digest]``, the last one where it ends."""
        places = dict([*self.kept, (self.offset, self.digest)]) if self.offset else {}
        return [[offset, digest] for offset, digest in places.items()]

    @staticmethod
    def from_list(places: Any) -> Trail:
        """What `to_list` gave; ValueError if it is something else."""
        try:
            read = tuple((index(offset), index(digest)) for offset, digest in places)
        except (TypeError, ValueError) as error:
            raise ValueError(f"no list of [offset, digest]: {places!r}") from error
        if any(not (1 <= offset <= MAX_OFFSET and 0 <= digest < 2**32) for offset, digest in read):
            raise ValueError(f"no list of [offset, digest]: {places!r}")
        if not read:
            return NO_TRAIL
        *before, (offset, digest) = read
        # The last is one to keep if it is the first at or after a power of two.
        is_kept = not before or before[-1][0].bit_length() < offset.bit_length()
        return Trail(read if is_kept else tuple(before), offset, digest)


NO_TRAIL = Trail()  # before the first microbatch


@dataclass(frozen=True)
class Start:
    """Where to begin, and what is expected on the way there.

    Attributes:
        trail: Its offset is how many microbatches come before; its digests what they should be.
        inner: The state of the user's own loader there, pickled; empty if unknown.
        described: What the source was made of; empty if unknown.
        is_same_part: Whether the digests are of the indices that this rank draws, too.
        is_strict: Whether a difference is an error.
        workers: Where each worker stands, if that does not follow from the offset.
    """

    trail: Trail = NO_TRAIL
    inner: bytes = b""
    described: Description = ()
    is_same_part: bool = True
    is_strict: bool = True
    workers: tuple[WorkerPlace, ...] = ()

    @property
    def offset(self) -> int:
        """Microbatches that come before."""
        return self.trail.offset

    def expected(self) -> dict[int, int]:
        """The digest at each place on the way where one is known."""
        places = (*self.trail.kept, (self.trail.offset, self.trail.digest))
        known = {offset: digest for offset, digest in places if digest != NO_DIGEST}
        return known if self.is_same_part else {}


def differences(before: Description, now: Description) -> list[str]:
    """What of a description has changed, each fact in words; nothing if it is empty."""
    is_ = dict(now)
    return [
        f"{name} was {was!r}, is {repr(is_[name]) if name in is_ else 'not there'}"
        for name, was in before
        if name not in is_ or was != is_[name]
    ]


def mismatches(found: list[str], start: Start, epoch: int) -> Iterator[Notice]:
    """A warning of differences, in words, if there are any.

    Raises:
        ResumeMismatchError: There are, and ``start`` is strict.
    """
    if not found:
        return
    text = explain(found, f"epoch {epoch}, microbatch {start.offset}")
    if start.is_strict:
        raise ResumeMismatchError(text)
    yield Notice(text)


def describe_order(title: str, names: Sequence[str]) -> Description:
    """Names in their order, digested in parts that double in size, so as to say where they differ.

    Args:
        title: What they are; begins the name of each fact.
        names: In order.
    """
    parts = []
    begin, end = 0, 1
    while begin < len(names):
        part = blake2b(repr(list(names[begin:end])).encode(), digest_size=8).hexdigest()
        last = min(end, len(names)) - 1
        where = f"{begin} to {last}" if last > begin else f"{begin}"
        parts.append((f"{title} {where}", part))
        begin, end = end, 2 * end
    return ((f"number of {title}", len(names)), *parts)
