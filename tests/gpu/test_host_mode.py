"""Without ``device`` the user moves tensors; no copy of theirs reads a slot that is in use again.

The memory of such tensors is not page-locked, so torch's copies have left it when they return.
"""

from __future__ import annotations

import pytest
import torch

from tests.gpu.work import A_MOMENT, Ramps, new_loader, num_wrong


@pytest.mark.parametrize("size", [64, 1 << 13, 1 << 17, 1 << 20])
@pytest.mark.parametrize("prefetches", [1, -1])
def test_a_tensor_dropped_behind_its_non_blocking_copy(gpu, size, prefetches):
    count = 400 if size < 1 << 20 else 100
    wrong = []
    for microbatch in new_loader(Ramps(count, size), None, prefetches):
        torch.cuda._sleep(A_MOMENT // 2)  # the copy waits behind it
        moved = {name: tensor.to(gpu, non_blocking=True) for name, tensor in microbatch.items()}
        del microbatch
        wrong.append(num_wrong(moved))
    assert [int(count) for count in wrong] == [0] * count


def test_the_same_on_a_side_stream(gpu):
    side = torch.cuda.Stream(gpu)
    wrong = []
    for microbatch in new_loader(Ramps(300), None, 1):
        with torch.cuda.stream(side):
            torch.cuda._sleep(A_MOMENT // 2)
            moved = {name: tensor.to(gpu, non_blocking=True) for name, tensor in microbatch.items()}
            wrong.append(num_wrong(moved))
        del microbatch, moved
    torch.cuda.synchronize(gpu)
    assert [int(count) for count in wrong] == [0] * 300


def test_torchs_own_pinned_copy_of_a_microbatch(gpu):
    wrong = []
    for microbatch in new_loader(Ramps(200), None, 1):
        pinned = {name: tensor.pin_memory() for name, tensor in microbatch.items()}
        del microbatch
        moved = {name: tensor.to(gpu, non_blocking=True) for name, tensor in pinned.items()}
        del pinned
        wrong.append(num_wrong(moved))
    assert [int(count) for count in wrong] == [0] * 200


def test_no_view_of_page_locked_memory_reaches_the_user(gpu):
    loader = new_loader(Ramps(30), gpu)
    for _ in range(10):
        assert next(loader)["x"].device == gpu
    loader.set_device(None)  # the slots are page-locked by now
    microbatch = next(loader)
    assert {tensor.device.type for tensor in microbatch.values()} == {"cpu"}
    assert not any(tensor.is_pinned() for tensor in microbatch.values())
