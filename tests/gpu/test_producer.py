"""The producer never touches CUDA, however it is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.gpu.work import new_loader

EACH_METHOD = pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])


def open_devices():
    """What of the driver this process has open."""
    links = (_target(fd) for fd in Path("/proc/self/fd").iterdir())
    return sorted(link for link in links if link.startswith("/dev/nvidia"))


def _target(fd):
    try:
        return str(fd.readlink())
    except FileNotFoundError:  # the descriptor of the listing itself
        return ""


class Witness:
    """Says in each microbatch what its process has done with CUDA; can be pickled."""

    def __call__(self):
        return self

    def __iter__(self):
        for _ in range(20):
            yield {
                "x": torch.ones(1000),
                "pid": os.getpid(),
                "is_initialized": torch.cuda.is_initialized(),
                "devices": open_devices(),
            }


@EACH_METHOD
def test_cuda_is_never_started_in_the_producer(gpu, method):
    torch.zeros(1, device=gpu)
    loader = new_loader(Witness(), gpu, multiprocessing_context=method)
    seen = list(loader)
    assert len({each["pid"] for each in seen} - {os.getpid()}) == 1
    assert {each["x"].device for each in seen} == {gpu}
    assert [each["is_initialized"] for each in seen] == [False] * 20


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_producer_has_no_device_open(gpu, method):
    torch.zeros(1, device=gpu)
    assert open_devices() != []  # as the trainer has: so the test can tell
    loader = new_loader(Witness(), gpu, multiprocessing_context=method)
    assert [each["devices"] for each in loader] == [[]] * 20
