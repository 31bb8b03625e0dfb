"""Where a loader gets its microbatches from: another process, or this thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class LoaderStats:
    """What a loader has delivered since its producer was started.

    Attributes:
        num_microbatches: Microbatches delivered.
        nbytes: Bytes delivered through shared memory (0 without a producer process).
        num_copies: Microbatches delivered as private copies, because too many were kept alive.
        stall_s: Seconds that ``next()`` waited for data.
    """

    num_microbatches: int = 0
    nbytes: int = 0
    num_copies: int = 0
    stall_s: float = 0.0


class Feed(Protocol):
    """A stream of microbatches. Used by one thread at a time."""

    def begin_pass(self, epoch: int) -> None:
        """Start over with the first microbatch of ``epoch``; what is prefetched is dropped."""

    def next_microbatch(self, device: torch.device | None) -> Any:
        """The next microbatch, its tensors on ``device``; StopIteration at the end of the pass."""

    def length(self) -> int | None:
        """Microbatches in an epoch; None when the source does not know."""

    def stats(self) -> LoaderStats:
        """What was delivered so far."""

    def stop(self) -> None:
        """Give everything back. May be called more than once."""
