"""Microbatches on a device are those of host mode, wherever the copies stand when they come."""

from __future__ import annotations

import functools
import gc
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fkat.data import ShardedDataLoader, ShmDataLoader
from tests.equality import assert_same

CUDA = torch.device("cuda")


def sized(seed, count):
    """Microbatches of random sizes, dtypes and containers."""
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        n = int(torch.randint(0, 3000, (1,), generator=generator))
        values = torch.randint(0, 256, (8, n), dtype=torch.uint8, generator=generator)
        yield {
            "number": i,
            "bytes": values,
            "transposed": values.t(),
            "floats": [torch.arange(n, dtype=torch.float64), torch.tensor(i).bool()],
            "half": (values.to(torch.bfloat16), torch.empty(0, 7)),
            "again": values,
            "array": np.arange(n + 1) + i,
        }


def constant(count, numel=4096):
    for i in range(count):
        yield torch.full((numel,), i % 251, dtype=torch.uint8)


def of_shard(shard):
    yield from constant(int(shard))


def on_device(factory, *, device=CUDA, prefetches=2, **options):
    return ShmDataLoader(0, factory, prefetches, device=device, **options)


@pytest.mark.parametrize("device_prefetch", [0, 1, 2, 7])
@pytest.mark.parametrize("prefetches", [0, 1, 4])
def test_contents_are_those_of_host_mode(fake, prefetches, device_prefetch):
    factory = functools.partial(sized, 7, 60)
    loader = on_device(factory, prefetches=prefetches, device_prefetch=device_prefetch)
    for got, wanted in zip(loader, sized(7, 60), strict=True):
        fake.settle()
        assert_same(got, wanted)
    assert loader.stats().num_microbatches == 60
    loader.teardown()


@pytest.mark.parametrize("prefetches", [1, 3])
def test_what_is_kept_stays_right_while_everything_is_used_again(fake, prefetches):
    loader = on_device(functools.partial(sized, 3, 80), prefetches=prefetches)
    kept = list(loader)
    fake.settle()
    for got, wanted in zip(kept, sized(3, 80), strict=True):
        assert_same(got, wanted)
    assert loader.stats().num_copies == 0, "what is kept is kept on the device, not in slots"
    loader.teardown()


def test_the_compute_stream_waits_for_the_copy(fake):
    fake.delay(300, 900)
    loader = on_device(functools.partial(constant, 40))
    seen, delivered = [], []
    for microbatch in loader:
        compute = fake.memories[0].compute_stream
        seen.append(fake.read_on(compute, microbatch))
        delivered.append((microbatch.data_ptr(), compute))
    assert fake.memories[0].handed_over == delivered
    fake.settle()
    assert [set(bytes_.tolist()) for bytes_ in seen] == [{i} for i in range(40)]
    loader.teardown()


def test_next_returns_before_the_copy_is_done(fake):
    loader = on_device(functools.partial(constant, 5))
    next(loader)
    fake.settle()
    fake.hold()
    late = [next(loader), next(loader)]
    seen = [fake.read_on(fake.memories[0].compute_stream, tensor) for tensor in late]
    assert fake.count("in_flight") > 0
    fake.release()
    fake.settle()
    assert [int(bytes_[0]) for bytes_ in seen] == [1, 2]
    loader.teardown()


def test_copies_run_ahead_of_what_is_delivered_by_device_prefetch(fake):
    loader = on_device(functools.partial(constant, 20), prefetches=8, device_prefetch=3)
    for i in range(5):
        next(loader)
        copied = fake.count("cuMemcpyHtoDAsync_v2")
        assert i + 1 <= copied <= i + 1 + 3
    # However long it takes the producer to publish all that it may.
    while fake.count("cuMemcpyHtoDAsync_v2") < i + 1 + 3:
        time.sleep(0.05)
        i += 1
        next(loader)
    assert i < 19
    loader.teardown()


def test_each_microbatch_is_copied_at_once(fake):
    def twenty():
        for i in range(10):
            yield [torch.full((1000,), i) for _ in range(20)]

    loader = on_device(twenty, multiprocessing_context="fork")
    assert len(list(loader)) == 10
    assert fake.count("cuMemcpyHtoDAsync_v2") == 10
    loader.teardown()


def test_tensors_share_memory_but_not_version_counters(fake):
    def pairs():
        yield torch.ones(5), torch.ones(5, requires_grad=True)

    loader = on_device(pairs, multiprocessing_context="fork")
    a, b = next(loader)
    fake.settle()
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    loss = (b * a).sum()
    version = a._version
    b.detach().add_(0)
    assert a._version == version
    loss.backward()
    assert (b.requires_grad, b.is_leaf, a._base) == (True, True, None)
    loader.teardown()


def test_a_resumed_loader_counts_what_was_delivered_not_what_was_copied(fake):
    factory = functools.partial(DataLoader, list(constant(12)), batch_size=None)
    loader = on_device(factory, prefetches=6, device_prefetch=4)
    first = [next(loader) for _ in range(5)]
    state = loader.state_dict()
    loader.teardown()
    resumed = on_device(factory)
    resumed.load_state_dict(state)
    rest = list(resumed)
    fake.settle()
    assert [int(t[0]) for t in (*first, *rest)] == list(range(12))
    resumed.teardown()


def test_leaving_an_epoch_early_drops_what_is_in_flight(fake):
    loader = on_device(functools.partial(constant, 30), prefetches=4, device_prefetch=3)
    numbers = []
    for _ in range(4):
        for i, microbatch in enumerate(loader):
            fake.settle()
            numbers.append((i, int(microbatch[0])))
            if i == 3:
                break
    assert numbers == [(i, i) for i in range(4)] * 4
    loader.teardown()


@pytest.mark.parametrize("num_shard_prefetches", [0, 2])
def test_shards(fake, num_shard_prefetches):
    loader = ShardedDataLoader(
        0, ["5", "0", "3", "8"], of_shard, num_shard_prefetches, device=CUDA, device_prefetch=2
    )
    microbatches = list(loader)
    fake.settle()
    assert [int(t[0]) for t in microbatches] == [*range(5), *range(3), *range(8)]
    loader.teardown()


def test_two_loaders_at_once(fake):
    loaders = [on_device(functools.partial(constant, 15 + i)) for i in range(2)]
    for i, (a, b) in enumerate(zip(*loaders, strict=False)):
        fake.settle()
        assert (int(a[0]), int(b[0])) == (i, i)
    for loader in loaders:
        loader.teardown()


def test_a_loader_that_is_dropped_leaves_nothing(fake):
    loader = on_device(functools.partial(constant, 15))
    kept = next(loader)
    del loader
    gc.collect()
    fake.settle()
    assert fake.unbalanced() == {}
    assert int(kept[0]) == 0


def test_a_microbatch_without_tensors_copies_nothing(fake):
    def texts():
        yield {"text": "a", "array": np.arange(3)}
        yield {"text": "b", "array": np.arange(4)}

    loader = on_device(texts, multiprocessing_context="fork")
    got = list(loader)
    assert [(m["text"], m["array"].tolist()) for m in got] == [
        ("a", [0, 1, 2]),
        ("b", [0, 1, 2, 3]),
    ]
    assert fake.count("cuMemcpyHtoDAsync_v2") == 0
    loader.teardown()


class Numbers(IterableDataset):
    def __iter__(self):
        worker = get_worker_info()
        return constant_of(range(worker.id, 40, worker.num_workers))


def constant_of(numbers):
    return (torch.full((4096,), number, dtype=torch.uint8) for number in numbers)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("prefetches", [0, 4])
def test_each_of_several_workers_has_copies_in_flight(fake, prefetches, in_order):
    factory = functools.partial(DataLoader, Numbers(), None, num_workers=2, in_order=in_order)
    loader = on_device(factory, prefetches=prefetches)
    found = []
    for microbatch in loader:
        fake.settle()
        assert microbatch.unique().numel() == 1
        found.append(int(microbatch[0]))
    assert (found if in_order else sorted(found)) == list(range(40))
    loader.teardown()
