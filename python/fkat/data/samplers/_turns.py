"""Who comes next in a mixture: the one implementation for batch samplers and for loaders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from fkat.data.samplers.strategies import EndlessStrategy

T = TypeVar("T")

# So many names of exhausted loaders in a row are no accident of the order (0.1 s of drawing).
_MAX_VAIN_DRAWS = 1_000_000


class Turns:
    """The turns of one epoch.

    Args:
        strategy: As `checked_strategy` returned it.
        names: Every loader's name.
        live: Those that are not exhausted.
        epoch: The epoch, from 0.
        position: The strategy's position; 0 begins the epoch.
    """

    def __init__(
        self,
        strategy: Iterable[str],
        names: Collection[str],
        live: Iterable[str],
        epoch: int,
        position: int = 0,
    ) -> None:
        drawn = strategy if isinstance(strategy, EndlessStrategy) else _Listing(strategy, names)
        self._strategy = drawn
        self._epoch = epoch
        self.position = position
        self.live = set(live)

    def next_of(self, iterators: Mapping[str, Iterator[T]]) -> tuple[str, T]:
        """The next item and the name it is of; StopIteration when the epoch is over.

        An iterator that raises anything else leaves the turn to be taken again.
        """
        while self.live:
            drawn = self._strategy.draw(self._epoch, self.position, self.live)
            if drawn is None:
                break
            name, following = drawn
            try:
                item = next(iterators[name])
            except StopIteration:
                self.live.discard(name)
                continue
            self.position = following
            return name, item
        raise StopIteration


class _Listing:
    """Names of any iterable, drawn as an `EndlessStrategy` draws them."""

    def __init__(self, strategy: Iterable[str], known: Collection[str]) -> None:
        self._strategy = strategy
        self._known = known
        self._names: Iterator[str] | None = None
        self._asked = 0  # names from here up to the current one are of exhausted loaders
        self._place = -1  # of the current name
        self._current: str | None = None

    def draw(self, epoch: int, position: int, live: Collection[str]) -> tuple[str, int] | None:
        if self._names is None:
            self._begin(epoch, position)
        elif position > self._place:
            self._advance()
        num_vain = 0
        while self._current is not None and self._current not in live:
            num_vain += 1
            if num_vain > _MAX_VAIN_DRAWS:
                raise RuntimeError(
                    f"the strategy named only exhausted loaders, {num_vain} times in a row, but "
                    f"{listed(live)} would have more: it must come to name each loader again and "
                    "again, or end"
                )
            self._advance()
        return None if self._current is None else (self._current, self._place + 1)

    def _begin(self, epoch: int, position: int) -> None:
        set_epoch = getattr(self._strategy, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
        self._names = islice(self._strategy, position, None)
        self._place = position - 1
        self._advance()

    def _advance(self) -> None:
        assert self._names is not None
        self._place += 1
        self._current = next(self._names, None)
        if self._current is not None and self._current not in self._known:
            raise ValueError(
                f"the strategy named {self._current!r}, but the loaders are {listed(self._known)}"
            )


class _Remembered:
    """An iterator's names, to be gone through again."""

    def __init__(self, names: Iterator[str]) -> None:
        self._source = names
        self._names: list[str] = []

    def __iter__(self) -> Iterator[str]:
        place = 0
        while True:
            if place == len(self._names):
                try:
                    self._names.append(next(self._source))
                except StopIteration:
                    return
            yield self._names[place]
            place += 1


def checked_strategy(strategy: Any, names: Collection[str]) -> Iterable[str]:
    """The strategy, as `Turns` takes it.

    Raises:
        TypeError: It is no iterable of names.
        ValueError: It names what is no loader, or it is known that it never names one.
    """
    if isinstance(strategy, str) or not isinstance(strategy, Iterable):
        raise TypeError(f"strategy must be an iterable of names, got {strategy!r}")
    if isinstance(strategy, EndlessStrategy):
        if left_out := [name for name in names if name not in strategy.names]:
            raise ValueError(
                f"{strategy!r} never names {listed(left_out)}: name it there, with 0 if it shall "
                "not be drawn, or leave out the loader"
            )
        named: Iterable[str] = strategy.names
    else:
        named = strategy if isinstance(strategy, Sequence) else ()
    if unknown := [name for name in dict.fromkeys(named) if name not in names]:
        raise ValueError(f"{strategy!r} names {listed(unknown)}; the loaders are {listed(names)}")
    # Whoever has set_epoch() knows how to begin anew.
    if isinstance(strategy, Iterator) and not hasattr(strategy, "set_epoch"):
        return _Remembered(strategy)
    named_by: Iterable[str] = strategy
    return named_by


def can_be_drawn(strategy: Iterable[str], name: str) -> bool:
    """Whether the strategy ever draws ``name``, as far as is known."""
    return not isinstance(strategy, EndlessStrategy) or strategy.draw(0, 0, {name}) is not None


def has_ended(strategy: Iterable[str], position: int, live: set[str]) -> bool:
    """Whether nothing comes after ``position``; False where only drawing could tell."""
    if not live:
        return True
    if isinstance(strategy, EndlessStrategy):
        return strategy.draw(0, position, live) is None
    return isinstance(strategy, Sequence) and not live & set(strategy[position:])


def count_turns(strategy: Iterable[str], lengths: Mapping[str, int]) -> int:
    """Turns in an epoch over loaders of these lengths; a strategy that is no list is endless."""
    if isinstance(strategy, Sequence):
        named = Counter(strategy)
        return sum(min(length, named[name]) for name, length in lengths.items())
    return sum(n for name, n in lengths.items() if can_be_drawn(strategy, name))


def name_of(strategy: Iterable[str]) -> str:
    """What tells a strategy from another, as far as that can be told."""
    known = isinstance(strategy, EndlessStrategy)
    return repr(strategy) if known else type(strategy).__qualname__


def listed(names: Iterable[str]) -> str:
    """Names for an error's text."""
    return ", ".join(repr(name) for name in names)
