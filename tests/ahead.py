"""What the producers of a loader have made ahead, and who they are."""

from __future__ import annotations

import time

from fkat.data import DictDataLoader

_PATIENCE_S = 60.0


def _feeds(loader):
    """One for each producer that was started."""
    if isinstance(loader, DictDataLoader):
        return [feed for child in loader._children.values() for feed in _feeds(child.loader)]
    return loader._feed._feeds if loader._feed else []


def pids(loader):
    return [feed.pid for feed in _feeds(loader)]


def num_ahead(loader):
    """Microbatches that each producer has published and nobody asked for."""
    return [feed._ring.look().num_unread for feed in _feeds(loader)]


def await_ahead(loader, expected):
    _await(lambda: num_ahead(loader), expected)


def await_activity(loader, activity):
    """Wait until all that were started do this; see `RingView.activity`."""
    _await(lambda: {feed._ring.look().activity for feed in _feeds(loader)}, {activity})


def _await(look, expected):
    give_up = time.monotonic() + _PATIENCE_S
    while (found := look()) != expected:
        assert time.monotonic() < give_up, f"it is {found}, not {expected}"
        time.sleep(0.005)
