"""Fixtures: a real training script in an environment that is short of something."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("training.py").read_text()


@pytest.fixture
def train(start_trainer) -> Callable[..., tuple[int, str, str]]:
    """Run training.py to its end: ``train(*arguments, prefix=())``; as `Trainer.finish`."""

    def run(*arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, str, str]:
        outcome: tuple[int, str, str] = start_trainer(SCRIPT, *arguments, prefix=prefix).finish()
        return outcome

    return run


@pytest.fixture
def without_network() -> tuple[str, ...]:
    """A command that runs another one where there is no network, not even loopback; or a skip."""
    prefix = ("unshare", "--net")
    try:
        probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs util-linux's unshare")
    if probe.returncode != 0:
        pytest.skip(f"cannot make a network namespace here: {probe.stderr.strip()}")
    return prefix
