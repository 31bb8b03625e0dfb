"""Too little device memory, and all of it given back."""

from __future__ import annotations

import contextlib
import gc

import pytest
import torch

from tests.gpu.work import Ramps, new_loader, num_wrong, ramp

MIB = 1 << 20
NUM_INTEGERS = 4 * MIB  # 32 MiB a microbatch
COUNT = 12


@contextlib.contextmanager
def room_for(nbytes, device):
    """Let torch have only so much more memory than it uses now."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info(device)[1]
    allowed = torch.cuda.memory_reserved(device) + nbytes
    torch.cuda.set_per_process_memory_fraction(allowed / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def taken(loader, count):
    """Numbers of the next microbatches, each compared on the host: that takes no device memory."""
    numbers = []
    for _ in range(count):
        microbatch = next(loader)
        numbers.append(int(microbatch["number"]))
        assert torch.equal(microbatch["x"].cpu(), ramp(numbers[-1], NUM_INTEGERS))
        del microbatch
    return numbers


def test_room_for_fewer_than_are_to_be_in_flight(gpu):
    loader = new_loader(Ramps(COUNT, NUM_INTEGERS), gpu, device_prefetch=4)
    with room_for(3 * 36 * MIB, gpu):  # the one in use and two in flight
        assert taken(loader, COUNT) == list(range(COUNT))


def test_no_room_at_all_is_torchs_error_and_loses_nothing(gpu):
    loader = new_loader(Ramps(COUNT, NUM_INTEGERS), gpu)
    assert taken(loader, 3) == [0, 1, 2]
    loader.set_device(None)  # nothing stays in flight
    assert taken(loader, 1) == [3]
    loader.set_device(gpu)
    with room_for(8 * MIB, gpu):
        for _ in range(3):
            with pytest.raises(torch.cuda.OutOfMemoryError):
                next(loader)
    assert taken(loader, COUNT - 4) == list(range(4, COUNT))
    with pytest.raises(StopIteration):
        next(loader)


def test_memory_of_others_counts_too(gpu):
    loader = new_loader(Ramps(COUNT, NUM_INTEGERS), gpu)
    assert taken(loader, 1) == [0]
    loader.set_device(None)  # nothing stays in flight
    assert taken(loader, 1) == [1]
    loader.set_device(gpu)
    hogs = []
    with contextlib.suppress(torch.cuda.OutOfMemoryError):
        nbytes = torch.cuda.mem_get_info(gpu)[0]
        while True:
            nbytes = max(nbytes // 2, 2 * MIB)
            hogs.append(torch.empty(nbytes, dtype=torch.uint8, device=gpu))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        next(loader)
    hogs.clear()
    torch.cuda.empty_cache()
    assert taken(loader, COUNT - 2) == list(range(2, COUNT))


def test_device_memory_returns_with_every_teardown(gpu):
    def use_a_loader():
        loader = new_loader(Ramps(COUNT, MIB), gpu)
        for _ in range(5):
            next(loader)  # some are in flight when it ends
        loader.teardown()

    allocated, free = [], []
    for _ in range(6):
        use_a_loader()
        gc.collect()
        torch.cuda.synchronize(gpu)
        torch.cuda.empty_cache()
        allocated.append(torch.cuda.memory_allocated(gpu))
        free.append(torch.cuda.mem_get_info(gpu)[0])
    assert allocated == [allocated[0]] * 6
    # The first round loads kernels. Nothing of 8 MiB microbatches stays behind after it.
    assert free[1] - min(free[1:]) < 4 * MIB


def test_a_microbatch_keeps_its_memory_when_its_loader_is_gone(gpu):
    loader = new_loader(Ramps(COUNT), gpu)
    kept = [next(loader) for _ in range(5)]
    loader.teardown()
    del loader
    again = new_loader(Ramps(COUNT, first=900), gpu)
    for _ in again:
        pass
    assert [int(num_wrong(microbatch)) for microbatch in kept] == [0] * 5
    assert [int(microbatch["number"]) for microbatch in kept] == list(range(5))
