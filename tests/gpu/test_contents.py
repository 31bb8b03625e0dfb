"""What arrives on the GPU is what was sent: every byte, stride and container."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from fkat.data.sharded import ShardedDataLoader
from tests.equality import assert_same
from tests.gpu.patterns import Checker, Patterned, leaves_of
from tests.gpu.work import A_MOMENT, Busy, new_loader

MAX_NBYTES = 2 << 20
BOTH = pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])


def shard(name, max_nbytes):
    first, count = (int(number) for number in name.split("-"))
    return Patterned(count, max_nbytes, first)


def odd_ones():
    """What is no plain tensor in the ring, and what the dataset shares or marks."""
    shared = torch.arange(6.0)
    yield {
        "sparse": torch.eye(4).to_sparse(),
        "grad": torch.ones(3, requires_grad=True),
        "conjugate": torch.tensor([1 + 2j, 3 - 4j]).conj(),
        "complex": torch.tensor([1 + 2j], dtype=torch.complex128),
        "twice": [shared, shared],
        "text": "as it is",
        "nothing": None,
        "array": np.arange(5)[::2],
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize("prefetches", [1, 4, -1])
def test_ten_thousand_random_microbatches_under_heavy_compute(gpu, prefetches):
    count = 10_000
    check, busy = Checker(gpu, count, MAX_NBYTES), Busy(gpu)
    for microbatch in new_loader(Patterned(count, MAX_NBYTES), gpu, prefetches):
        busy()  # the check stands behind it: by then slots and slabs are in use again
        check(microbatch)
    assert check.expected == count
    assert check.wrong() == []


@pytest.mark.parametrize("device_prefetch", [0, 1, 2, 6])
def test_any_number_in_flight(gpu, device_prefetch):
    check = Checker(gpu, 300, MAX_NBYTES)
    loader = new_loader(Patterned(300, MAX_NBYTES), gpu, device_prefetch=device_prefetch)
    for microbatch in loader:
        torch.cuda._sleep(A_MOMENT // 4)
        check(microbatch)
    assert check.wrong() == []


@BOTH
def test_with_and_without_a_producer_the_same_arrives(gpu, multiprocessing):
    check = Checker(gpu, 500, MAX_NBYTES)
    loader = new_loader(Patterned(500, MAX_NBYTES), gpu, multiprocessing=multiprocessing)
    for microbatch in loader:
        check(microbatch)
    assert check.expected == 500
    assert check.wrong() == []


@BOTH
def test_unusual_tensors_arrive_as_in_host_mode(gpu, multiprocessing):
    (on_host,) = new_loader(odd_ones, None, multiprocessing=multiprocessing)
    (on_gpu,) = new_loader(odd_ones, gpu, multiprocessing=multiprocessing)
    tensors = [leaf for key in on_gpu for leaf in _tensors(on_gpu[key])]
    assert {tensor.device for tensor in tensors} == {gpu}
    assert on_gpu["twice"][0] is on_gpu["twice"][1]
    assert on_gpu["grad"].requires_grad
    assert_same(_moved(on_gpu), _moved(on_host))


def _tensors(value):
    return leaves_of(value) if isinstance(value, torch.Tensor | list) else []


def _moved(microbatch):
    """On the host, without what a move does not keep: leaves, and one object in two places."""
    moved = dict(microbatch)
    for key, value in microbatch.items():
        if isinstance(value, torch.Tensor):
            moved[key] = value.detach().cpu()
    moved["twice"] = microbatch["twice"][0].cpu()
    return moved


def test_tensors_of_a_microbatch_share_one_slab(gpu):
    for microbatch in new_loader(Patterned(60, 1 << 16), gpu):
        leaves = [leaf for leaf in leaves_of(microbatch["tree"]) if leaf.numel() > 0]
        assert len({leaf.untyped_storage().data_ptr() for leaf in leaves}) <= 1


def test_arrays_stay_on_the_host_and_are_the_users_own(gpu):
    kept = []
    for microbatch in new_loader(Patterned(100, 1 << 12), gpu, prefetches=1):
        microbatch["array"] += 1  # may be written to
        kept.append(microbatch["array"])
    expected = [(np.arange(i % 7, dtype=np.int64) * i + 1).tolist() for i in range(100)]
    assert [array.tolist() for array in kept] == expected


def test_every_microbatch_may_be_kept(gpu):
    # Unlike in host mode there is no limit: what is kept is device memory, not slots.
    kept = list(new_loader(Patterned(200, 1 << 16), gpu, prefetches=1))
    check = Checker(gpu, 200, 1 << 16)
    for microbatch in kept:
        check(microbatch)
    assert check.wrong() == []


@BOTH
@pytest.mark.parametrize("num_shard_prefetches", [0, 3])
def test_a_sharded_loader(gpu, num_shard_prefetches, multiprocessing):
    names = [f"{200 * i}-200" for i in range(6)]
    factory = functools.partial(shard, max_nbytes=MAX_NBYTES)
    loader = ShardedDataLoader(
        0, names, factory, num_shard_prefetches, 2, device=gpu, multiprocessing=multiprocessing
    )
    check, busy = Checker(gpu, 1200, MAX_NBYTES), Busy(gpu)
    for microbatch in loader:
        busy(1)
        check(microbatch)
    assert check.expected == 1200
    assert check.wrong() == []


def test_epochs_that_are_left_early_leave_nothing_in_the_next(gpu):
    loader = new_loader(Patterned(50, MAX_NBYTES), gpu)
    busy = Busy(gpu)
    for taken in [1, 7, 2, 50, 3, 50]:
        check = Checker(gpu, 50, MAX_NBYTES)
        for microbatch in loader:
            busy(1)
            check(microbatch)
            if check.expected == taken:
                break
        assert check.wrong() == []


def test_slots_are_page_locked_for_the_device_and_never_without_one(gpu):
    loader = new_loader(Patterned(50, MAX_NBYTES), gpu)
    for _ in loader:
        pass
    stats = loader.stats()
    assert stats.num_microbatches == 50
    assert stats.pinned_nbytes > 0
    assert stats.pinning_s > 0
    on_host = new_loader(Patterned(50, MAX_NBYTES), None)
    for _ in on_host:
        pass
    assert (on_host.stats().pinned_nbytes, on_host.stats().pinning_s) == (0, 0.0)
