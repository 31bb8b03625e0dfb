"""What was used last, up to a limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key, made when they are not at hand; those used least recently are dropped.

    The last one is kept whatever it costs. Threads of one process may share it.

    Args:
        make: Makes the value of a key.
        capacity: What all values may cost together.
        cost: Of one value.
    """

    def __init__(
        self, make: Callable[[K], V], capacity: int, cost: Callable[[V], int] = lambda _: 1
    ) -> None:
        self._make = make
        self._capacity = capacity
        self._cost = cost
        self._values: OrderedDict[K, V] = OrderedDict()
        self._total = 0
        self._lock = Lock()

    def get(self, key: K) -> V:
        """The value of ``key``, made now or before."""
        with self._lock:
            if key not in self._values:
                self._values[key] = self._make(key)
                self._total += self._cost(self._values[key])
            self._values.move_to_end(key)
            while self._total > self._capacity and len(self._values) > 1:
                self._total -= self._cost(self._values.popitem(last=False)[1])
            return self._values[key]
