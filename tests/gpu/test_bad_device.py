"""Devices that cannot be used, and what the error says."""

from __future__ import annotations

import multiprocessing
import os

import pytest
import torch

from fkat.data.errors import DeviceError
from tests.gpu.work import Ramps, new_loader

FORK = multiprocessing.get_context("fork")


def error_of_next(loader):
    try:
        next(loader)
    except DeviceError as error:
        return str(error)
    return None


def in_forked_child(work):
    """What ``work()`` returns in a child of this process, which has CUDA started."""
    reader, writer = FORK.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        try:
            writer.send(work())
        except BaseException as error:
            writer.send(repr(error))
        finally:
            os._exit(0)
    writer.close()
    assert reader.poll(60), "the child said nothing"
    answer = reader.recv()
    os.waitpid(pid, 0)
    return answer


def test_a_device_that_does_not_exist(gpu):
    missing = torch.device("cuda", torch.cuda.device_count())
    with pytest.raises(DeviceError, match=f"cuda:{missing.index}|device.*{missing.index}"):
        next(new_loader(Ramps(3), missing))


def test_a_loader_made_in_a_process_that_was_forked_after_cuda_started(gpu):
    torch.zeros(1, device=gpu)
    text = in_forked_child(lambda: error_of_next(new_loader(Ramps(3), gpu)))
    assert text is not None
    assert "fork" in text


def test_a_loader_whose_copies_were_in_flight_when_the_process_was_forked(gpu):
    loader = new_loader(Ramps(50), gpu)
    next(loader)
    text = in_forked_child(lambda: error_of_next(loader))
    assert text is not None
    assert "fork" in text
    assert [int(next(loader)["number"]) for _ in range(20)] == list(range(1, 21))  # here it goes on


def test_a_loader_in_host_mode_works_in_a_forked_process(gpu):
    torch.zeros(1, device=gpu)
    first = in_forked_child(lambda: int(next(new_loader(Ramps(3, first=5), None))["number"]))
    assert first == 5
