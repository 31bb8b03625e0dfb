"""The device benchmark's own logic: its sources, its checks, and its bars, from made-up figures.

What it measures, only a GPU can show.
"""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.device import __main__ as device
from benchmarks.device.bars import BARS, judge, summarise
from benchmarks.device.cases import COPY_SIZES, STEPS, PoolOnDevice, SpotCheck, step_case
from benchmarks.device.measure import compare_all
from benchmarks.device.report import to_markdown
from benchmarks.device.subjects import SUBJECTS, Resident, fkat
from benchmarks.harness.question import WrongPayloadError

CPU = torch.device("cpu")
MIB = 1 << 20
CASE = step_case(64 * 1024)
NO_GPU_HERE = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def made_up(ours=50.0, fkat_ms=2.0, trainer_us=40.0):
    """A result as the benchmark stores it, of figures that nobody measured."""
    copies = [
        {
            "kind": "copy",
            "nbytes": nbytes,
            "gib_per_s": {"ours": [ours, ours], "pinned": [50.0, 50.0], "delivered": [40.0, 41.0]},
            "pinned_nbytes": 4 << 30,
            "pinning_s": 0.5,
        }
        for nbytes in COPY_SIZES
    ]
    times = {"resident": 2.0, "fkat": fkat_ms, "dataloader": 6.0, "one-ahead": 5.0}
    steps = [
        {
            "kind": "step",
            "step": step,
            "subject": subject,
            "step_ms": [ms - 0.01, ms, ms + 0.01],
            "peak_allocated_nbytes": 200 * MIB,
        }
        for step in STEPS
        for subject, ms in times.items()
    ]
    trainer = [{"kind": "trainer", "wall_us": [trainer_us], "cpu_us": [trainer_us - 1]}]
    return {
        "environment": {
            **{"date_utc": "2000-01-01T00:00:00+00:00", "git_commit": None, "git_dirty": False},
            **{"python": "3", "packages": {"torch": "2"}, "cpu_model": "a CPU", "num_cores": 1},
            "kernel": "6",
        },
        "gpu": {"name": "no GPU", "driver": None, "cuda": None},
        "options": {"rounds": 1, "passes": 1},
        "calibration": {"copy_ms": 1.0, "matmul_ms": 0.01, "matmuls": dict.fromkeys(STEPS, 100)},
        "not_installed": ["spdl"],
        "runs": copies + steps + trainer,
        "failures": [],
    }


def reached(results):
    return [verdict.reached for verdict in judge(summarise(results))]


def whats(results):
    """What of the bars was missed."""
    return [verdict.bar.what for verdict in judge(summarise(results)) if not verdict.reached]


@NO_GPU_HERE
def test_without_a_gpu_nothing_is_run_or_written(tmp_path, capsys):
    output = tmp_path / "result.json"
    assert device.main(["--quick", "--output", str(output)]) == 2
    assert capsys.readouterr() == ("", "no CUDA GPU: not run\n")
    assert list(tmp_path.iterdir()) == []


def test_quick_is_shorter_in_everything():
    full, quick = device.parse([]), device.parse(["--quick"])
    for name in ("rounds", "passes", "count", "nbytes"):
        assert getattr(quick, name) < getattr(full, name)
    assert full.sizes == COPY_SIZES
    assert full.rounds * full.passes >= 5


def test_every_bar_is_judged_by_its_figure():
    assert reached(made_up()) == [True] * len(BARS)
    sizes = [nbytes // MIB for nbytes in COPY_SIZES if nbytes >= MIB]
    assert sizes == [1, 4, 16, 64, 256]
    slow_copies = [f"copies of {mib} MiB, of the best pinned ones" for mib in sizes]
    assert whats(made_up(ours=47.0)) == slow_copies
    assert whats(made_up(fkat_ms=2.05)) == [
        "compute-heavy: step, of compute alone",
        "one-worker: step, of compute alone",
    ]
    assert whats(made_up(fkat_ms=4.7))[-1] == "copy-heavy: rate, of DataLoader(pin_memory=True)"
    assert whats(made_up(trainer_us=61.0)) == ["trainer's thread, microbatch of 20 tensors"]


def test_what_was_not_measured_is_not_reached():
    nothing = {**made_up(), "runs": []}
    assert reached(nothing) == [False] * len(BARS)
    assert to_markdown(nothing).count("not measured") > len(BARS)


def test_the_report_of_a_stored_result(tmp_path, capsys):
    path = device.store(made_up(), tmp_path / "result.json")
    assert json.loads(path.read_text()) == made_up()
    assert device.main(["--show", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.count("not installed") == len(STEPS)
    assert "0.125 [0.125-0.125]" in text  # seconds per GiB
    assert "100.0 %" in text
    assert "1.000x" in text


def test_loaders_of_a_step_stand_beside_each_other_in_another_order_each_round():
    options = device.parse([])
    matmuls = dict.fromkeys(STEPS, 1)
    orders = []
    for number in range(len(SUBJECTS)):
        measured = [
            arguments for _, arguments in device.plan(options, matmuls, list(SUBJECTS), number)
        ]
        names = [each["subject"] for each in measured if each.get("step") == "copy-heavy"]
        assert sorted(names) == sorted(SUBJECTS)
        orders.append(names)
    assert len({order[0] for order in orders}) == len(SUBJECTS)


def test_the_compute_of_a_step_is_counted_in_copies():
    counts = device.matmuls_of({"copy_ms": 1.2, "matmul_ms": 0.04})
    assert counts == {"copy-heavy": 30, "compute-heavy": 60, "one-worker": 240}
    assert set(device.matmuls_of({"copy_ms": 0.001, "matmul_ms": 1.0}).values()) == {1}


@pytest.mark.parametrize("num_workers", [1, 3])
def test_every_microbatch_of_the_source_arrives_and_is_compared(num_workers):
    loader = fkat(CASE, 24, num_workers, None)
    compare_all(loader, PoolOnDevice(CASE, CPU), 24)
    loader.teardown()


def arrived(count=12):
    return list(Resident(CASE, count, 1, CPU))


def spoil_element(microbatches):
    microbatches[7] = {**microbatches[7], "y": microbatches[7]["y"].clone()}
    microbatches[7]["y"][0, 0] += 1


def repeat_one(microbatches):
    microbatches[7] = microbatches[4]


def swap_contents(microbatches):
    microbatches[7] = {**microbatches[6], "number": microbatches[7]["number"]}


@pytest.mark.parametrize("spoil", [spoil_element, repeat_one, swap_contents])
def test_what_is_wrong_is_found_by_both_checks(spoil):
    pool, microbatches = PoolOnDevice(CASE, CPU), arrived()
    spoil(microbatches)
    with pytest.raises(WrongPayloadError, match="microbatch"):
        compare_all(microbatches, pool, 12)
    check = SpotCheck(pool)
    for number, microbatch in enumerate(microbatches):
        check(number, microbatch)
    assert check.num_wrong() > 0


def test_what_is_right_is_not_wrong():
    pool, check = PoolOnDevice(CASE, CPU), SpotCheck(PoolOnDevice(CASE, CPU))
    compare_all(arrived(), pool, 12)
    for number, microbatch in enumerate(arrived()):
        check(number, microbatch)
    assert check.num_wrong() == 0
    with pytest.raises(WrongPayloadError, match="11 microbatches arrived, 12 were sent"):
        compare_all(arrived()[:11], pool, 12)
