"""Wrong constructor arguments fail at once, by name."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from fkat.data import ShmDataLoader


def factory():
    raise AssertionError("a constructor must not build the loader")


class Index:
    """An integer that is no int, as numpy's are."""

    def __index__(self):
        return 2


class Profiler:
    """What a profiler must be able to do."""

    def start(self, action): ...
    def stop(self, action): ...
    def describe(self): ...
    def teardown(self, stage): ...


WRONG_TYPES = [
    *[("seed", value) for value in (None, "1", 1.0, True, [])],
    *[("dataloader_factory", value) for value in (None, [], 3, "factory")],
    *[("num_microbatch_prefetches", value) for value in (None, "1", 2.0, False, float("inf"))],
    *[("dp_rank", value) for value in (None, "0", 0.0, True)],
    *[("profiler", value) for value in ("simple", 1, object())],
    *[("device", value) for value in (3, 1.0, ["cpu"], True)],
    *[("multiprocessing", value) for value in (None, 0, 1, "yes", [])],
    *[("multiprocessing_context", value) for value in (1, True, multiprocessing, ["fork"])],
    *[("timeout", value) for value in (None, "1", True, [], 1j)],
    *[("memory_budget_nbytes", value) for value in ("1", 1e9, True, [])],
    *[("max_microbatch_nbytes", value) for value in (None, "1", 1e9, True, [])],
    *[("device_prefetch", value) for value in (None, "2", 2.0, True)],
    *[("max_restarts", value) for value in (None, "2", 2.0, True)],
    *[("dp_size", value) for value in ("1", 2.0, True, [])],
    *[("drop_last", value) for value in (None, 0, "no", [])],
]

WRONG_VALUES = [
    *[("num_microbatch_prefetches", value) for value in (-2, -100, 10**6)],
    *[("dp_rank", value) for value in (-1, -(2**70), 2**63)],
    *[("device", value) for value in ("", "nowhere", "cpu:x")],
    *[("multiprocessing_context", value) for value in ("", "threads", "FORK")],
    *[("timeout", value) for value in (-1, -0.001, float("nan"), float("inf"))],
    *[("memory_budget_nbytes", value) for value in (0, -1)],
    *[("max_microbatch_nbytes", value) for value in (0, -1, 1 << 60)],
    *[("device_prefetch", value) for value in (-1, 8)],
    *[("max_restarts", value) for value in (-1, -(10**6))],
    *[("dp_size", value) for value in (0, -1)],
]

RIGHT = [
    *[("seed", value) for value in (0, -1, 2**80, Index())],
    *[("num_microbatch_prefetches", value) for value in (-1, 0, 1, 4000, Index())],
    *[("dp_rank", value) for value in (0, 4095, Index())],
    *[("profiler", value) for value in (None, Profiler())],
    *[("device", value) for value in (None, "cpu", "cuda:1", torch.device("cpu"))],
    *[("multiprocessing", value) for value in (True, False)],
    *[
        ("multiprocessing_context", value)
        for value in (None, "fork", "spawn", "forkserver", multiprocessing.get_context("fork"))
    ],
    *[("timeout", value) for value in (0, 1, 0.5, 10**6)],
    *[("memory_budget_nbytes", value) for value in (None, 1, 10**15, Index())],
    *[("max_microbatch_nbytes", value) for value in (1, 1 << 40, Index())],
    *[("device_prefetch", value) for value in (0, 2, 7, Index())],
    *[("max_restarts", value) for value in (0, 3, 10**6, Index())],
    *[("dp_size", value) for value in (None, 1, 4096, Index())],
    *[("drop_last", value) for value in (True, False)],
]

METHODS = [
    ("set_epoch", "epoch", None, TypeError),
    ("set_epoch", "epoch", 1.5, TypeError),
    ("set_epoch", "epoch", True, TypeError),
    ("set_epoch", "epoch", -1, ValueError),
    ("set_epoch", "epoch", 2**70, ValueError),
    ("set_device", "device", 7, TypeError),
    ("set_device", "device", "nowhere", ValueError),
]


def new_loader(**changed):
    return ShmDataLoader(**{"seed": 0, "dataloader_factory": factory, **changed})


def case_id(value):
    text = repr(value)
    return text if len(text) < 40 and " at 0x" not in text else type(value).__name__


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES, ids=case_id)
def test_wrong_type_is_a_type_error_that_names_the_argument(name, value):
    with pytest.raises(TypeError, match=rf"^{name} "):
        new_loader(**{name: value})


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES, ids=case_id)
def test_wrong_value_is_a_value_error_that_names_the_argument(name, value):
    with pytest.raises(ValueError, match=rf"^{name} "):
        new_loader(**{name: value})


@pytest.mark.parametrize(("name", "value"), RIGHT, ids=case_id)
def test_right_value_is_taken(name, value):
    new_loader(**{name: value})


@pytest.mark.parametrize(("method", "name", "value", "error"), METHODS, ids=case_id)
def test_methods_check_their_arguments_too(method, name, value, error):
    with pytest.raises(error, match=rf"^{name} "):
        getattr(new_loader(), method)(value)


@pytest.mark.parametrize("name", ["seed", "dataloader_factory"])
def test_what_has_no_default_must_be_given(name):
    arguments = {"seed": 0, "dataloader_factory": factory}
    del arguments[name]
    with pytest.raises(TypeError, match=name):
        ShmDataLoader(**arguments)


def test_positions_are_those_of_the_reference_page():
    ShmDataLoader(0, factory, -1, 0, None, None, True)
    with pytest.raises(TypeError, match="positional"):
        ShmDataLoader(0, factory, -1, 0, None, None, True, "fork")


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="num_workers"):
        new_loader(num_workers=2)


@pytest.mark.parametrize("dp_rank", [2, 3])
def test_a_rank_that_is_none_of_dp_size_is_refused(dp_rank):
    with pytest.raises(ValueError, match=r"^dp_rank must be at most 1"):
        new_loader(dp_rank=dp_rank, dp_size=2)


def test_every_argument_is_covered_here():
    names = set(ShmDataLoader.__init__.__annotations__) - {"return"}
    assert {name for name, _ in RIGHT} | {"dataloader_factory"} == names
    assert {name for name, _ in WRONG_TYPES} == names
