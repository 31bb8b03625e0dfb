"""Which data set the next microbatch comes from.

A strategy is any iterable of names, endless or not. The three here are pure functions: what they
draw depends on their arguments, the epoch and the place in it, never on a hidden random state. So
every rank draws the same names, and a run resumes at any place without drawing what went before.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import accumulate
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from fkat.data import _arguments as arguments

__all__ = ["Frequency", "RoundRobin", "SamplerStrategy", "Weighted"]

_INT64_MAX = 2**63 - 1  # what is hashed


@runtime_checkable
class SamplerStrategy(Protocol):
    """Any iterable of names: one for each microbatch, in order.

    Every epoch begins it anew: ``set_epoch(epoch)`` is called if it has one, then ``iter()``. It
    must give the same names again for the same epoch. An iterator, which ``iter()`` cannot begin
    anew, has its names remembered.
    """

    def __iter__(self) -> Iterator[str]:
        """The names from the first on."""


class EndlessStrategy(ABC, Iterator[str]):
    """A strategy that can say who is next at any place, given who is left.

    As an iterator it goes through one epoch as if nothing were ever exhausted. A mixture does not
    use that, it asks `draw`; so one strategy may serve several mixtures.

    Args:
        names: Every name the strategy knows of, those that it never draws included.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._epoch = 0
        self._position = 0

    @abstractmethod
    def draw(self, epoch: int, position: int, live: Collection[str]) -> tuple[str, int] | None:
        """Who is next, among those that are left.

        A pure function. Removing a name from ``live`` changes only draws of that name: so the
        order does not depend on whether a loader's end is noticed early or late.

        Args:
            epoch: The epoch, from 0.
            position: 0 at the epoch's first draw, later what the draw before this one returned.
            live: Names that are not exhausted.

        Returns:
            The name and the position that follows; None if no name in ``live`` is ever drawn.
        """

    def __next__(self) -> str:
        """The next name of the epoch."""
        drawn = self.draw(self._epoch, self._position, self.names)
        if drawn is None:  # cannot be: the constructor saw to it
            raise StopIteration
        name, self._position = drawn
        return name

    def set_epoch(self, epoch: int) -> None:
        """Go to the first name of ``epoch``."""
        self._epoch = arguments.integer("epoch", epoch, minimum=0, maximum=_INT64_MAX)
        self._position = 0

    def state_dict(self) -> dict[str, Any]:
        """Where ``next()`` stands: two ints."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another stood.

        Raises:
            ValueError: The state has other keys than `state_dict` gives it, or a negative value.
            TypeError: A value is no int.
        """
        if set(state_dict) != {"epoch", "position"}:
            raise ValueError(f"a strategy's state has epoch and position, got {state_dict!r}")
        position = arguments.integer("position", state_dict["position"], minimum=0)
        self.set_epoch(state_dict["epoch"])
        self._position = position


class Weighted(EndlessStrategy):
    """Draws names at random, with probabilities proportional to their weights.

    When a loader is exhausted, the others keep their proportions. A loader of weight 0 is never
    drawn; the epoch ends when all others are exhausted.

    Draw i of an epoch takes the name of largest ``log(weight) - log(-log(u))`` (the Gumbel-max
    trick: Yellott 1977, J. Math. Psychol. 15), with u uniform in (0, 1) from a hash of seed, epoch,
    i and name.

    Args:
        weights: A weight of at least 0 for each name; they need not sum to 1.
        seed: Any integer. The same on every rank, or ranks draw different names.

    Raises:
        TypeError: ``weights`` is no dict of numbers, or ``seed`` no int.
        ValueError: A weight is negative, infinite or NaN, or none is above 0.
    """

    def __init__(self, weights: dict[str, float], *, seed: int = 0) -> None:
        if not isinstance(weights, Mapping):
            raise TypeError(f"weights must be a dict of name: weight, got {weights!r}")
        self._weights = {_name("weights", n): _weight(n, w) for n, w in weights.items()}
        if not any(self._weights.values()):
            raise ValueError(f"weights must have one above 0, got {dict(weights)!r}")
        self._seed = arguments.integer("seed", seed)
        self._logarithms = {n: math.log(w) for n, w in self._weights.items() if w > 0}
        super().__init__(self._weights)

    def draw(self, epoch: int, position: int, live: Collection[str]) -> tuple[str, int] | None:
        """Who is next, see `EndlessStrategy.draw`."""
        best = max(
            ((self._score(epoch, position, n), n) for n in self._logarithms if n in live),
            default=None,
        )
        return None if best is None else (best[1], position + 1)

    def __repr__(self) -> str:
        return f"Weighted({self._weights!r}, seed={self._seed})"

    def _score(self, epoch: int, position: int, name: str) -> float:
        text = struct.pack("<Qqq", self._seed % 2**64, epoch, position) + name.encode()
        word = int.from_bytes(blake2b(text, digest_size=8, person=b"Weighted").digest(), "little")
        uniform = ((word >> 12) + 0.5) / 2**52  # 52 bits: with 53 it could round to 1
        return self._logarithms[name] - math.log(-math.log(uniform))


class Frequency(EndlessStrategy):
    """So many microbatches of one name, then of the next, over and over.

    An exhausted name is skipped.

    Args:
        freq: ``[name, count]`` pairs; a count of 0 leaves its name out.

    Raises:
        TypeError: ``freq`` is no list of pairs of a name and an int.
        ValueError: A count is negative, or none is above 0.
    """

    def __init__(self, freq: list[Any]) -> None:
        pairs = [_pair(entry) for entry in _entries("freq", freq)]
        self._pairs = [(_name("freq", n), _count(n, c)) for n, c in pairs]
        # The places in a round at which each entry ends.
        self._ends = list(accumulate(count for _, count in self._pairs))
        if not self._ends or self._ends[-1] == 0:
            raise ValueError(f"freq must have a count above 0, got {freq!r}")
        super().__init__(name for name, _ in self._pairs)

    def draw(self, epoch: int, position: int, live: Collection[str]) -> tuple[str, int] | None:
        """Who is next, see `EndlessStrategy.draw`; the same in each epoch."""
        for _ in self._pairs:
            whole, rest = divmod(position, self._ends[-1])
            entry = bisect_right(self._ends, rest)
            if self._pairs[entry][0] in live:
                return self._pairs[entry][0], position + 1
            position = whole * self._ends[-1] + self._ends[entry]
        return None

    def __repr__(self) -> str:
        return f"Frequency({self._pairs!r})"


class RoundRobin(Frequency):
    """Each name in turn, over and over; an exhausted one is skipped.

    Args:
        names: The names, in order. One may stand there more than once.

    Raises:
        TypeError: ``names`` is no list of names.
        ValueError: ``names`` is empty.
    """

    def __init__(self, names: list[str]) -> None:
        listed = _entries("names", names)
        if not listed:
            raise ValueError("names must not be empty")
        super().__init__([(_name("names", name), 1) for name in listed])

    def __repr__(self) -> str:
        return f"RoundRobin({[name for name, _ in self._pairs]!r})"


def _entries(argument: str, value: Any) -> list[Any]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{argument} must be a list, got {value!r}")
    return list(value)


def _name(argument: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"names in {argument} must be str, got {value!r}")
    return str(value)  # a numpy string becomes a plain one


def _pair(entry: Any) -> list[Any]:
    if isinstance(entry, str) or not isinstance(entry, Collection) or len(entry) != 2:
        raise TypeError(f"freq must consist of [name, count] pairs, got {entry!r}")
    return list(entry)


def _count(name: str, value: Any) -> int:
    return arguments.integer(f"the count of {name!r} in freq", value, minimum=0)


def _weight(name: Any, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"the weight of {name!r} must be a number, got {value!r}")
    weight = float(value)
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"the weight of {name!r} must be finite and at least 0, got {value!r}")
    return weight
