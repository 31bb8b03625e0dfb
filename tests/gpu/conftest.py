"""Tests that only a real GPU can answer: without one each is shown as skipped, by name."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def _has_gpu():
    with warnings.catch_warnings():  # torch warns of a driver that it finds too old, or not at all
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def pytest_collection_modifyitems(items):
    """Mark what is in this folder; the hook is given every test of the run."""
    needs_gpu = pytest.mark.skipif(not _has_gpu(), reason="needs a CUDA GPU: not run")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(needs_gpu)


@pytest.fixture
def gpu():
    """The device that tests run on, with nothing of an earlier test on it."""
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    yield device
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()


@pytest.fixture
def other_gpu():
    """A second device."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA GPUs: not run")
    device = torch.device("cuda", 1)
    yield device
    torch.cuda.synchronize(device)
