"""What goes wrong on a device is said, by name, and loses nothing that was not lost already."""

from __future__ import annotations

import gc
import os
import signal
import sys
import weakref
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from fkat.data import ShmDataLoader
from fkat.data._device import cuda
from fkat.data._transport import staged_reader
from fkat.data.errors import DeviceError, ProducerDiedError

CUDA = torch.device("cuda")
NUMEL = 70000


def numbered(count):
    for i in range(count):
        yield torch.full((NUMEL,), i % 251, dtype=torch.uint8)


def dying(count):
    yield from numbered(count)
    os._exit(3)


def resumable(count):
    return DataLoader(list(numbered(count)), batch_size=None)


def new_loader(count=20, prefetches=4, factory=numbered, **options):
    return ShmDataLoader(0, partial(factory, count), prefetches, device=CUDA, **options)


def rest(loader):
    """What is left of the epoch."""
    return iter(loader.__next__, None)


def numbers(fake, microbatches):
    fake.settle()
    return [int(t[-1]) for t in microbatches]


@pytest.mark.parametrize("failing", range(4))
def test_a_refused_copy_is_raised_in_its_turn_and_names_its_microbatch(fake, failing):
    fake.fail("cuMemcpyHtoDAsync_v2", 1, after=failing)
    loader = new_loader()
    got = [next(loader) for _ in range(failing)]
    with pytest.raises(DeviceError, match=rf"microbatch {failing} to cuda:0.*INVALID_VALUE"):
        next(loader)
    assert numbers(fake, got) == list(range(failing))
    assert loader.state_dict()["microbatch"] == failing
    with pytest.raises(RuntimeError, match="iter"):
        next(loader)
    assert numbers(fake, list(iter(loader))) == list(range(20)), "the epoch begins again"
    loader.teardown()


@pytest.mark.parametrize(
    "entry_point", ["cuEventRecord", "cuStreamWaitEvent", "cuCtxPushCurrent_v2", "cuEventQuery"]
)
def test_any_call_may_fail(fake, entry_point):
    fake.delay(5000, 9000)  # so that there is something to wait for
    loader = new_loader()
    got = [next(loader)]
    fake.fail(entry_point, 999)
    with pytest.raises(DeviceError, match="CUDA_ERROR_UNKNOWN"):
        got += [next(loader) for _ in range(19)]
    assert numbers(fake, got) == list(range(len(got)))
    loader.teardown()


def test_a_copy_that_fails_on_the_device_is_raised_at_the_next_next(fake):
    loader = new_loader()
    got = [next(loader)]
    fake.settle()
    fake.fail("copy", 700)  # CUDA_ERROR_ILLEGAL_ADDRESS, from then on

    def go_on():
        while True:
            got.append(next(loader))
            fake.settle()

    with pytest.raises(DeviceError, match=r"copying microbatch \d+ to cuda:0.*ILLEGAL_ADDRESS"):
        go_on()
    assert loader.state_dict()["microbatch"] == len(got)
    loader.teardown()
    fake.reset()


def test_no_memory_for_prefetching_means_fewer_in_flight(fake):
    loader = new_loader()
    got = [next(loader)]
    memory = fake.memories[0]
    while len(got) < 20:
        memory.num_left = 1
        got.append(next(loader))
    assert numbers(fake, got) == list(range(20))
    loader.teardown()


def test_no_memory_at_all_is_torchs_error_and_loses_nothing(fake):
    loader = new_loader()
    got = [next(loader)]
    memory = fake.memories[0]
    memory.num_left = 0
    while True:
        try:
            got.append(next(loader))
        except torch.cuda.OutOfMemoryError:
            break
    held = len(got)
    for _ in range(3):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            next(loader)
    assert loader.state_dict()["microbatch"] == held
    memory.num_left = None
    got += rest(loader)
    assert numbers(fake, got) == list(range(20))
    loader.teardown()


@pytest.mark.parametrize("multiprocessing", [True, False])
def test_no_memory_where_torch_copies_loses_nothing(monkeypatch, multiprocessing):
    loader = ShmDataLoader(
        0, partial(numbered, 6), 2, device=torch.device("cpu"), multiprocessing=multiprocessing
    )
    to, num_left = torch.Tensor.to, [3]

    def scarce(tensor, *arguments):
        num_left[0] -= 1
        if num_left[0] < 0:
            raise torch.cuda.OutOfMemoryError("the device is full")
        return to(tensor, *arguments)

    monkeypatch.setattr(torch.Tensor, "to", scarce)
    got = [int(next(loader)[0]) for _ in range(3)]
    for _ in range(2):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            next(loader)
    assert loader.state_dict()["microbatch"] == 3
    num_left[0] = 100
    got += [int(microbatch[0]) for microbatch in rest(loader)]
    assert got == list(range(6))
    loader.teardown()


def test_a_finished_loader_goes_without_the_garbage_collector(fake):
    loader = new_loader(5)
    assert numbers(fake, list(loader)) == list(range(5))
    feed = weakref.ref(loader._feed)
    gc.disable()
    try:
        del loader
        assert feed() is None
    finally:
        gc.enable()


def is_between(frame):
    """Whether the microbatch has left the queue and is about to be returned: no call is there."""
    code = staged_reader.StagedReader._deliver.__code__
    return frame.f_code is code and frame.f_lineno == max(line for *_, line in code.co_lines())


@pytest.mark.parametrize("num_lines", range(1, 80, 3))
def test_an_interrupt_between_any_two_lines_loses_nothing(fake, num_lines):
    """KeyboardInterrupt where the reader stands, as often as there are lines to stand in."""
    loader = new_loader(8, device_prefetch=2)
    got, lines = [next(loader)], [num_lines]

    def trace(frame, event, _):
        if frame.f_code.co_filename != staged_reader.__file__:
            return None
        if event == "line" and frame.f_code.co_name != "deliver" and not is_between(frame):
            lines[0] -= 1
            if lines[0] == 0:
                raise KeyboardInterrupt
        return trace

    while len(got) < 8:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            got.append(next(loader))
        except KeyboardInterrupt:
            continue
        finally:
            sys.settrace(before)
    assert numbers(fake, got) == list(range(8))
    with pytest.raises(StopIteration):
        next(loader)
    loader.teardown()


def test_a_held_microbatch_may_still_go_to_the_host(fake):
    loader = new_loader(prefetches=0, device_prefetch=0)
    got = [next(loader)]
    fake.memories[0].num_left = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        next(loader)
    loader.set_device(None)
    got += (microbatch.clone() for microbatch in rest(loader))
    assert numbers(fake, got) == list(range(20))
    loader.teardown()


def test_a_producer_that_dies_is_told_after_what_it_published(fake):
    loader = new_loader(12, factory=dying, max_restarts=0)
    got = []
    with pytest.raises(ProducerDiedError):
        got.extend(rest(loader))
    assert numbers(fake, got) == list(range(12))
    loader.teardown()


def test_a_driver_that_is_gone_at_the_end_is_no_error(fake):
    loader = new_loader()
    next(loader)
    fake.settle()
    fake.deinitialize()
    loader.teardown()


def test_a_fork_of_the_trainer_calls_nothing_and_frees_nothing(fake):
    loader = new_loader(prefetches=2)
    got = [next(loader) for _ in range(3)]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with pytest.raises(RuntimeError, match="a child that it forked"):
                next(loader)
            del loader, got
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    got += rest(loader)
    assert numbers(fake, got) == list(range(20))
    loader.teardown()


def test_a_missing_driver_library_is_said(fake, monkeypatch):
    monkeypatch.setenv("FKAT_DATA_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    with pytest.raises(DeviceError, match=r"/nowhere/libcuda\.so\.1"):
        next(new_loader())


def test_a_device_that_the_driver_does_not_have(fake):
    loader = ShmDataLoader(0, partial(numbered, 3), 2, device=torch.device("cuda", 5))
    with pytest.raises(DeviceError, match="CUDA device 5"):
        next(loader)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize("multiprocessing", [True, False])
def test_without_a_gpu_the_error_says_so_and_the_loader_goes_on_elsewhere(multiprocessing):
    loader = new_loader(5, multiprocessing=multiprocessing)
    with pytest.raises(DeviceError, match=r"device cuda does not exist: torch .* finds no GPU"):
        next(loader)
    loader.set_device(None)
    assert [int(t[0]) for t in iter(loader)] == list(range(5))
    loader.teardown()


def test_a_device_number_too_high_names_those_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match="cuda:0 to cuda:1"):
        cuda.check(torch.device("cuda", 2))


def test_a_process_forked_after_cuda_was_used_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(DeviceError, match="forked"):
        cuda.check(CUDA)


@pytest.mark.parametrize("wrong", [-1, 8, 1.5, True])
def test_device_prefetch_is_checked(wrong):
    with pytest.raises((TypeError, ValueError), match="device_prefetch"):
        new_loader(device_prefetch=wrong)


def test_a_device_that_is_busy_is_said(monkeypatch):
    def busy(device):
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")

    monkeypatch.setattr(cuda, "check", lambda device: None)
    monkeypatch.setattr(cuda, "CudaMemory", busy)
    with pytest.raises(DeviceError, match=r"device cuda cannot be used: .* busy"):
        next(new_loader())


def test_a_producer_that_was_killed_is_replaced_while_copies_are_in_flight(fake):
    fake.delay(2000, 6000)
    loader = new_loader(prefetches=2, factory=resumable)
    got = []
    for microbatch in loader:
        got.append(microbatch)
        if len(got) in (3, 9):
            os.kill(loader._feed.pids[0], signal.SIGKILL)
    assert numbers(fake, got) == list(range(20))
    assert loader.stats().num_restarts == 2
    loader.teardown()
