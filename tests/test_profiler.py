"""A Lightning profiler, run in the producer."""

from __future__ import annotations

import multiprocessing

import pytest
from lightning.pytorch.profilers import SimpleProfiler

from fkat.data import ShmDataLoader


def factory() -> list[int]:
    return [1, 2, 3]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_its_report_is_written_with_the_producers_pid(method, tmp_path):
    profiler = SimpleProfiler(dirpath=tmp_path, filename="producer")
    loader = ShmDataLoader(0, factory, profiler=profiler, multiprocessing_context=method)
    assert list(loader) == [1, 2, 3]
    (pid,) = [child.pid for child in multiprocessing.active_children()]
    loader.teardown()
    (report,) = tmp_path.iterdir()
    assert f"producer-{pid}" in report.name
    assert "fkat.data producer" in report.read_text()


def test_it_is_written_when_the_loop_was_left_early(tmp_path):
    profiler = SimpleProfiler(dirpath=tmp_path, filename="producer")
    loader = ShmDataLoader(0, factory, profiler=profiler)
    next(loader)
    loader.teardown()
    assert len(list(tmp_path.iterdir())) == 1


def test_each_producer_writes_its_own(tmp_path):
    profiler = SimpleProfiler(dirpath=tmp_path, filename="producer")
    for _ in range(2):
        loader = ShmDataLoader(0, factory, profiler=profiler)
        assert list(loader) == [1, 2, 3]
        loader.teardown()
    assert len(list(tmp_path.iterdir())) == 2
