"""What every Trainer does again and again, once."""

from __future__ import annotations

import functools

import pytest
from lightning.pytorch.trainer.connectors import callback_connector


@pytest.fixture(autouse=True, scope="session")
def look_for_plugins_once():
    """Lightning's look at every installed distribution: a third of a short training's time."""
    with pytest.MonkeyPatch.context() as patch:
        find = callback_connector._load_external_callbacks
        patch.setattr(callback_connector, "_load_external_callbacks", functools.cache(find))
        yield
