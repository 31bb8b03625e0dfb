"""Every test here ends with a driver that has nothing to complain of and nothing left."""

from __future__ import annotations

import gc
import os

import pytest

from fkat.data._device import cuda
from tests.device.fake import FakeCuda, FakeMemory, build


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory):
    """Path of the fake driver's library; FAKE_CUDA_LIBRARY names one that is built already."""
    if "FAKE_CUDA_LIBRARY" in os.environ:
        return os.environ["FAKE_CUDA_LIBRARY"]
    return build(tmp_path_factory.mktemp("fake_cuda"))


@pytest.fixture
def fake(fake_driver, monkeypatch):
    """The fake driver in the driver's place, and `FakeMemory` in torch's."""
    driver = FakeCuda(fake_driver)
    driver.reset()
    driver.memories = []

    def open_memory(device):
        driver.memories.append(FakeMemory(driver, device.index or 0))
        return driver.memories[-1]

    monkeypatch.setenv("FKAT_DATA_CUDA_DRIVER", str(fake_driver))
    monkeypatch.setattr(cuda, "open_memory", open_memory)
    yield driver
    gc.collect()
    driver.release()
    assert driver.violations() == []
    assert driver.unbalanced() == {}
    assert driver.context_depth() == 0
