"""Several loaders, several devices, and a loader that moves from one device to another."""

from __future__ import annotations

import threading

import pytest
import torch

from tests.gpu.patterns import Checker, Patterned
from tests.gpu.work import A_MOMENT, Ramps, new_loader, num_wrong

MAX_NBYTES = 1 << 20


def test_two_loaders_at_once(gpu):
    firsts = [0, 1000]
    checks = [Checker(gpu, 300, MAX_NBYTES, first) for first in firsts]
    loaders = [new_loader(Patterned(300, MAX_NBYTES, first), gpu) for first in firsts]
    for pair in zip(*loaders, strict=True):
        torch.cuda._sleep(A_MOMENT // 2)
        for check, microbatch in zip(checks, pair, strict=True):
            check(microbatch)
    assert [check.wrong() for check in checks] == [[], []]


def test_loaders_in_several_threads_with_a_stream_each(gpu):
    wrong = {}

    def train(first):
        with torch.cuda.stream(torch.cuda.Stream(gpu)):
            loader = new_loader(Ramps(150, first=first), gpu)
            counts = [num_wrong(microbatch) for microbatch in loader]
            wrong[first] = [int(count) for count in counts]

    threads = [threading.Thread(target=train, args=(1000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == {1000 * i: [0] * 150 for i in range(4)}


def test_a_loader_in_host_mode_beside_one_for_the_device(gpu):
    on_gpu, on_host = new_loader(Ramps(200), gpu), new_loader(Ramps(200, first=500), None)
    wrong = []
    for device_one, host_one in zip(on_gpu, on_host, strict=True):
        wrong += [num_wrong(device_one), num_wrong(host_one)]
        assert int(host_one["number"]) == 500 + len(wrong) // 2 - 1
    assert [int(count) for count in wrong] == [0] * 400


def test_two_devices_at_once(gpu, other_gpu):
    devices = [gpu, other_gpu]
    loaders = [new_loader(Patterned(300, MAX_NBYTES), device) for device in devices]
    checks = [Checker(device, 300, MAX_NBYTES) for device in devices]
    for pair in zip(*loaders, strict=True):
        for check, microbatch in zip(checks, pair, strict=True):
            with torch.cuda.device(check.device):
                torch.cuda._sleep(A_MOMENT // 2)
                check(microbatch)
    assert [check.wrong() for check in checks] == [[], []]


def test_a_device_that_is_not_the_current_one(gpu, other_gpu):
    wrong = []
    for microbatch in new_loader(Ramps(100), other_gpu):
        assert microbatch["x"].device == other_gpu
        assert torch.cuda.current_device() == gpu.index
        with torch.cuda.device(other_gpu):
            wrong.append(num_wrong(microbatch))
    assert [int(count) for count in wrong] == [0] * 100


def moved_about(devices, each=7):
    """Seven microbatches on each device, in one epoch: where they were, numbers, wrong elements."""
    loader = new_loader(Ramps(each * len(devices)), devices[0])
    places, numbers, wrong = [], [], []
    for device in devices:
        loader.set_device(device)
        for _ in range(each):
            microbatch = next(loader)
            places.append(microbatch["x"].device)
            numbers.append(int(microbatch["number"]))
            wrong.append(int(num_wrong(microbatch)))
    with pytest.raises(StopIteration):
        next(loader)
    return places, numbers, wrong


def expected(devices, each=7):
    on = [device or torch.device("cpu") for device in devices for _ in range(each)]
    return on, list(range(len(on))), [0] * len(on)


@pytest.mark.parametrize("between", [None, torch.device("cpu")], ids=["none", "cpu"])
def test_set_device_in_the_middle_of_an_epoch(gpu, between):
    devices = [gpu, between, gpu, between]
    assert moved_about(devices) == expected(devices)


def test_set_device_from_one_gpu_to_another(gpu, other_gpu):
    devices = [gpu, other_gpu, None, other_gpu, gpu]
    assert moved_about(devices) == expected(devices)


def test_a_device_without_a_number_is_the_current_one(gpu):
    microbatch = next(new_loader(Ramps(3), torch.device("cuda")))
    assert microbatch["x"].device == gpu
