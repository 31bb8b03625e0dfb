"""A feed from several, each with its own producer, that take turns shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import cast

import torch

from fkat.data._shards.source import ShardWork
from fkat.data._source.note import Ends, Mark, ShardDone, Taken
from fkat.data._transport.feed import Feed, LoaderStats, ProcessFeed, stop_all


class ShardFeed:
    """Delivers shards in order: the first of the first feed, the first of the second, and so on.

    Args:
        feeds: At least one.
        is_lazy: A pass of the one feed is a single shard; the next is asked for when it is done.
    """

    def __init__(self, feeds: Sequence[Feed], is_lazy: bool) -> None:
        self._feeds = feeds
        self._is_lazy = is_lazy
        self._epoch = 0
        self._num_done = 0  # shards, in this pass
        self._is_at_end = False  # whether only the word is missing that one more is done
        self._must_ask = False  # for the next shard
        self._num_skipped = 0

    def begin_pass(self, epoch: int, start: int = 0) -> None:
        self._epoch = epoch
        self._num_done = start
        self._is_at_end = False
        self._must_ask = False
        for feed in self._feeds:
            feed.begin_pass(epoch, start)

    def next(self, device: torch.device | None, number: int) -> Taken:
        if self._must_ask:
            self._feeds[0].begin_pass(self._epoch, self._num_done)
            self._must_ask = False
        # Whose turn it is: when that one has nothing left, neither have those after it.
        taken = self._feeds[self._whose_turn].next(device, number)
        # No call from here on: an interrupt would lose what was taken.
        match taken:
            case _, Mark(ends=ends):
                self._is_at_end = ends is not Ends.NOTHING
            case ShardDone(was_skipped=was_skipped), None:
                self._num_done += 1
                self._is_at_end = False
                self._num_skipped += was_skipped
                self._must_ask = self._is_lazy
        return taken

    def replace(self, work: ShardWork, goes_on: bool) -> None:
        # Only whose turn it is was asked, so only that one is known to be dead: the others run on.
        whose = self._whose_turn
        self._num_done += self._is_at_end
        self._is_at_end = False
        self._must_ask = False
        if self._is_lazy:
            self._num_done = 0  # counted from where the new one begins
        feed = cast(ProcessFeed, self._feeds[whose])
        feed.replace(work.of_producer(whose, len(self._feeds), self._num_done), goes_on)

    def length(self) -> int | None:
        return None

    def stats(self) -> LoaderStats:
        total = reduce(add, (feed.stats() for feed in self._feeds))
        return replace(total, num_skipped_shards=self._num_skipped)

    def tell_to_stop(self) -> None:
        for feed in self._feeds:
            feed.tell_to_stop()

    def stop(self) -> None:
        stop_all(self._feeds)

    @property
    def _whose_turn(self) -> int:
        return self._num_done % len(self._feeds)
