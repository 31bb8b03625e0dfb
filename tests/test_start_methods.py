"""fork, spawn and forkserver deliver the same, chosen as in DataLoader."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fkat.data import ShmDataLoader

METHODS = ("fork", "spawn", "forkserver")
each_method = pytest.mark.parametrize("method", METHODS)

Point = namedtuple("Point", ["x", "y"])


@dataclass
class Sample:
    point: Point
    start_method: str


class Samples(Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Sample:
        point = Point(torch.full((3,), index), torch.rand(2))
        return Sample(point, multiprocessing.get_start_method(allow_none=True) or "")


def samples() -> DataLoader:
    return DataLoader(Samples(), batch_size=None, shuffle=True)


def samples_of_workers() -> DataLoader:
    return DataLoader(Samples(), batch_size=None, num_workers=1)


def points(loader: ShmDataLoader) -> list[tuple[list[int], list[float]]]:
    return [(sample.point.x.tolist(), sample.point.y.tolist()) for sample in loader]


@each_method
def test_it_delivers_the_same_microbatches_as_this_process(method):
    expected = points(ShmDataLoader(7, samples, multiprocessing=False))
    assert points(ShmDataLoader(7, samples, multiprocessing_context=method)) == expected


@each_method
def test_a_context_object_does_as_well_as_its_name(method):
    context = multiprocessing.get_context(method)
    loader = ShmDataLoader(7, samples, multiprocessing_context=context)
    assert len(points(loader)) == 20


@each_method
def test_classes_of_a_module_come_back_as_themselves(method):
    loader = ShmDataLoader(7, samples, multiprocessing_context=method)
    sample = next(loader)
    assert type(sample) is Sample
    assert type(sample.point) is Point


@each_method
def test_the_dataloader_may_have_workers(method):
    loader = ShmDataLoader(7, samples_of_workers, multiprocessing_context=method)
    assert [sample.point.x[0].item() for sample in loader] == list(range(20))


@each_method
def test_a_producer_gives_way_to_the_trainer(method):
    loader = ShmDataLoader(0, samples, 2, multiprocessing_context=method)
    next(loader)
    assert [os.sched_getscheduler(pid) for pid in loader._feed.pids] == [os.SCHED_BATCH]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_policy_that_somebody_chose_stays(start_trainer):
    script = """
import os
from fkat.data import ShmDataLoader

os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
loader = ShmDataLoader(0, lambda: [1, 2], 2, multiprocessing_context="fork")
next(loader)
print([os.sched_getscheduler(pid) == os.SCHED_IDLE for pid in loader._feed.pids])
"""
    assert start_trainer(script).finish() == (0, "[True]\n", "")


@each_method
def test_several_passes_come_from_one_producer(method):
    loader = ShmDataLoader(7, samples, multiprocessing_context=method)
    for _ in range(3):
        assert sorted(x[0] for x, _ in points(loader)) == list(range(20))
    producers = [p for p in multiprocessing.active_children() if p.name == "fkat.data producer"]
    assert len(producers) == 1


@each_method
def test_the_thread_that_started_it_may_end(method):
    # With PR_SET_PDEATHSIG the producer would die with that thread.
    loader = ShmDataLoader(7, samples, 1, multiprocessing_context=method)
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(next(loader).point.x[0].item()))
    thread.start()
    thread.join()
    seen += [next(loader).point.x[0].item() for _ in range(19)]
    assert sorted(seen) == list(range(20))


def test_the_default_is_that_of_multiprocessing(start_trainer):
    trainer = start_trainer(
        """
        import multiprocessing
        from fkat.data import ShmDataLoader

        def factory():
            return [multiprocessing.get_start_method()]

        if __name__ == "__main__":
            multiprocessing.set_start_method("spawn")
            loader = ShmDataLoader(0, factory)
            next(loader)
            print(*{type(p).__name__ for p in multiprocessing.active_children()})
        """
    )
    assert trainer.finish() == (0, "SpawnProcess\n", "")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_the_main_script_defines_can_be_sent(start_trainer, method):
    trainer = start_trainer(
        """
        import sys
        from collections import namedtuple
        import torch
        from torch.utils.data import DataLoader, Dataset
        from fkat.data import ShmDataLoader

        Pair = namedtuple("Pair", ["a", "b"])

        class MainError(Exception):
            pass

        class Pairs(Dataset):
            def __len__(self):
                return 3

            def __getitem__(self, index):
                if index == 2:
                    raise MainError("the third")
                return Pair(torch.full((2,), index), index)

        def factory():
            return DataLoader(Pairs(), batch_size=None)

        if __name__ == "__main__":
            try:
                for pair in ShmDataLoader(0, factory, multiprocessing_context=sys.argv[1]):
                    print(type(pair) is Pair, pair.a.tolist(), pair.b)
            except MainError as error:
                print(str(error).splitlines()[0])
        """,
        method,
    )
    assert trainer.finish() == (0, "True [0, 0] 0\nTrue [1, 1] 1\nthe third\n", "")
