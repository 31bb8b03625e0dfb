"""Some loaders at once, in turns."""

from __future__ import annotations

import random
import traceback

from soak.counts import Counts
from soak.deck import Deck
from soak.life import Life, Way
from soak.stream import Drawn, OutOfStepError


class Lives:
    """Several lives in random turns; one that has gone wrong makes room for another.

    Args:
        number: How many at once.
        chance: What happens.
        counts: Where it is counted.
        drawn: The random numbers so far.
    """

    def __init__(self, number: int, chance: random.Random, counts: Counts, drawn: Drawn) -> None:
        self._chance = chance
        self._counts = counts
        self._drawn = drawn
        self._ways: Deck[Way] = Deck(Life.WAYS, chance)
        self._lives = [self._new() for _ in range(number)]

    def take_turn(self) -> None:
        """One of them lives for a moment."""
        turn = self._chance.randrange(len(self._lives))
        try:
            self._lives[turn].live()
        except Exception as error:
            if not isinstance(error, OutOfStepError):
                self._counts.fail("unexpected errors", traceback.format_exc())
            self._lives[turn] = self._new()

    def end(self) -> None:
        """All of them end."""
        for life in self._lives:
            try:
                life.end()
            except Exception:
                self._counts.fail("unexpected errors", traceback.format_exc())

    def _new(self) -> Life:
        return Life(self._chance, self._counts, self._drawn, self._ways)
