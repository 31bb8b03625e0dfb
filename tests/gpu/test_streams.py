"""Used late, on other streams, in other orders: what was delivered does not change meanwhile."""

from __future__ import annotations

import threading

import pytest
import torch

from tests.gpu.patterns import Checker, Patterned
from tests.gpu.work import A_MOMENT, Ramps, new_loader, num_wrong

MAX_NBYTES = 1 << 20


@pytest.mark.parametrize("prefetches", [1, -1])
def test_use_that_comes_late_sees_what_was_delivered(gpu, prefetches):
    # One slot that is soon full again, and slabs that are dropped long before they are read.
    check = Checker(gpu, 400, MAX_NBYTES)
    for microbatch in new_loader(Patterned(400, MAX_NBYTES), gpu, prefetches):
        torch.cuda._sleep(A_MOMENT)
        check(microbatch)
        del microbatch
    assert check.wrong() == []


def test_a_loop_over_the_loader_on_a_stream_of_the_users(gpu):
    check = Checker(gpu, 300, MAX_NBYTES)
    torch.cuda.synchronize(gpu)
    stream = torch.cuda.Stream(gpu)
    with torch.cuda.stream(stream):
        for microbatch in new_loader(Patterned(300, MAX_NBYTES), gpu):
            torch.cuda._sleep(A_MOMENT // 2)
            check(microbatch)
    stream.synchronize()
    assert check.wrong() == []


def test_the_stream_may_be_another_one_each_time(gpu):
    streams = [torch.cuda.Stream(gpu) for _ in range(5)]
    wrong = []
    loader = new_loader(Ramps(300), gpu)
    for number in range(300):
        with torch.cuda.stream(streams[number % 5]):
            microbatch = next(loader)
            torch.cuda._sleep(A_MOMENT // 2)
            wrong.append(num_wrong(microbatch))
            del microbatch
    torch.cuda.synchronize(gpu)
    assert [int(count) for count in wrong] == [0] * 300


def test_reads_on_streams_that_the_user_records(gpu):
    streams = [torch.cuda.Stream(gpu) for _ in range(4)]
    wrong = []
    for microbatch in new_loader(Ramps(200), gpu, prefetches=2):
        for stream in streams:
            stream.wait_stream(torch.cuda.current_stream(gpu))
            for tensor in microbatch.values():
                tensor.record_stream(stream)
            with torch.cuda.stream(stream):
                torch.cuda._sleep(A_MOMENT)
                wrong.append(num_wrong(microbatch))
        del microbatch
    torch.cuda.synchronize(gpu)
    assert [int(count) for count in wrong] == [0] * 800


def test_iterating_in_another_thread_than_the_one_that_made_the_loader(gpu):
    loader = new_loader(Ramps(100), gpu)
    next(loader)
    wrong = []

    def train():
        torch.cuda.set_device(gpu)
        for microbatch in loader:
            wrong.append(int(num_wrong(microbatch)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert wrong == [0] * 100  # a loop of its own is the next epoch


def test_copies_do_not_wait_for_the_compute_that_they_hide_behind(gpu):
    loader = new_loader(Ramps(20), gpu)
    side = torch.cuda.Stream(gpu)
    with torch.cuda.stream(side):  # slots are page-locked, kernels loaded: neither is for later
        for microbatch in loader:
            num_wrong(microbatch)
    torch.cuda.synchronize(gpu)
    torch.cuda._sleep(1000 * A_MOMENT)
    compute = torch.cuda.Event()
    compute.record()
    iter(loader)
    with torch.cuda.stream(side):
        wrong = [num_wrong(next(loader)) for _ in range(10)]  # more than were in flight
    side.synchronize()
    assert not compute.query()
    assert [int(count) for count in wrong] == [0] * 10


def test_a_graph_replayed_around_the_loader(gpu):
    count, size = 300, 1 << 17
    static = {
        "number": torch.zeros((), dtype=torch.int64, device=gpu),
        "x": torch.zeros(size, dtype=torch.int64, device=gpu),
    }
    wrong = torch.zeros((), dtype=torch.int64, device=gpu)
    seen = torch.zeros((), dtype=torch.int64, device=gpu)
    places = torch.arange(size, device=gpu) * 31

    def step():
        wrong.add_(static["x"].ne((places + static["number"]) % 65521).sum())
        seen.add_(static["number"])

    side = torch.cuda.Stream(gpu)
    side.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream(gpu).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    loader = new_loader(Ramps(count, size), gpu)
    first = next(loader)  # copies are in flight while the graph is captured
    with torch.cuda.graph(graph):
        step()
    wrong.zero_()
    seen.zero_()
    for microbatch in _then(first, loader, count):
        for name, tensor in static.items():
            tensor.copy_(microbatch[name])
        graph.replay()
    assert int(wrong) == 0
    assert int(seen) == sum(range(count))


def _then(first, loader, count):
    yield first
    for _ in range(count - 1):
        yield next(loader)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.timeout(600)
def test_a_compiled_step(gpu):
    pytest.importorskip("triton", reason="torch.compile needs triton: not run")
    compiled = torch.compile(num_wrong)
    wrong = [compiled(microbatch) for microbatch in new_loader(Ramps(50), gpu)]
    assert [int(count) for count in wrong] == [0] * 50
