"""``python -m benchmarks.device``: what device mode takes, against the other ways to the GPU.

Each measurement is a process of its own. A round measures everything once, the loaders of a step
one right after the other and in another order than the round before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.device.cases import COPY_SIZES, STEPS
from benchmarks.device.report import to_markdown
from benchmarks.device.subjects import SUBJECTS, missing_package
from benchmarks.harness.environment import ROOT, describe

NO_GPU = 2
"""Exit code where there is nothing to measure on."""

HANG_TIMEOUT_S = 900
"""A measurement takes seconds to a minute; one that takes this long hangs, and has failed."""

Run = dict[str, Any]


def measure(kind: str, **arguments: Any) -> Run:
    """Run benchmarks.device.measure in a fresh process; its JSON, or ``{"reason": why not}``."""
    command = [sys.executable, "-m", "benchmarks.device.measure", kind]
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return {"reason": f"no result after {HANG_TIMEOUT_S} s"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no output"]
        return {"reason": f"{lines[-1]} (exit code {done.returncode})"}
    result: Run = json.loads(done.stdout)
    return result


def describe_gpu() -> dict[str, Any]:
    """The device that everything runs on, its driver, and the CUDA that torch was built for."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    version = Path("/proc/driver/nvidia/version")
    return {
        "name": properties.name,
        "total_memory_nbytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": version.read_text().splitlines()[0] if version.exists() else None,
        "cuda": torch.version.cuda,
    }


def matmuls_of(calibration: Run) -> dict[str, int]:
    """How many matrix products make each step's compute as long as it is to be."""
    per_copy = calibration["copy_ms"] / calibration["matmul_ms"]
    return {name: max(1, round(step.compute_per_copy * per_copy)) for name, step in STEPS.items()}


def plan(
    options: argparse.Namespace, matmuls: dict[str, int], subjects: list[str], number: int
) -> Iterator[tuple[str, Run]]:
    """What round ``number`` measures: kinds and arguments, in order."""
    for nbytes in options.sizes:
        yield "copy", {"nbytes": nbytes, "passes": options.passes}
    for step in STEPS:
        shift = number % len(subjects)
        for subject in subjects[shift:] + subjects[:shift]:
            arguments = {"step": step, "subject": subject, "matmuls": matmuls[step]}
            sizes = {"nbytes": options.nbytes, "count": options.count, "passes": options.passes}
            yield "step", {**arguments, **sizes}
    yield "trainer", {"passes": options.passes}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; one failure does not stop the rest."""
    missing = [subject for subject in SUBJECTS if missing_package(subject) is not None]
    subjects = [subject for subject in SUBJECTS if subject not in missing]
    calibration = measure("calibrate", nbytes=options.nbytes)
    if "reason" in calibration:
        raise RuntimeError(f"the calibration failed: {calibration['reason']}")
    calibration["matmuls"] = matmuls_of(calibration)
    results: dict[str, Any] = {
        "environment": describe(),
        "gpu": describe_gpu(),
        "options": {key: getattr(options, key) for key in ("rounds", "passes", "count", "nbytes")},
        "calibration": calibration,
        "not_installed": missing,
        "runs": [],
        "failures": [],
    }
    for number in range(options.rounds):
        for kind, arguments in plan(options, calibration["matmuls"], subjects, number):
            label = f"round {number + 1}/{options.rounds}, {kind}, {arguments}"
            print(label, file=sys.stderr)
            result = measure(kind, **arguments)
            outcome = results["failures"] if "reason" in result else results["runs"]
            outcome.append({"round": number, "kind": kind, **arguments, **result})
    return results


def store(results: dict[str, Any], output: Path | None) -> Path:
    """Write the raw values and where they come from as JSON."""
    environment = results["environment"]
    stamp = environment["date_utc"][:19].replace(":", "")
    commit = (environment["git_commit"] or "uncommitted")[:12]
    path = output or ROOT / "benchmarks" / "results" / f"device-{stamp}-{commit}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--repeats", dest="rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--passes", type=int, default=2, help="timed passes per process (2)")
    parser.add_argument("--quick", action="store_true", help="a smoke test: its numbers are noise")
    parser.add_argument("--output", type=Path, help="where to write the JSON")
    parser.add_argument("--show", type=Path, metavar="JSON", help="print a stored result instead")
    options = parser.parse_args(arguments)
    options.sizes, options.nbytes, options.count = COPY_SIZES, 64 << 20, 120
    if options.quick:
        options.rounds = options.passes = 1
        options.sizes, options.nbytes, options.count = COPY_SIZES[:4], 4 << 20, 40
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure or load, then print; 1 if a measurement failed, 2 without a GPU."""
    options = parse(arguments)
    if options.show is not None:
        results = json.loads(options.show.read_text())
    elif not torch.cuda.is_available():
        print("no CUDA GPU: not run", file=sys.stderr)
        return NO_GPU
    else:
        results = run(options)
        print(f"stored in {store(results, options.output)}", file=sys.stderr)
    print(to_markdown(results))
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
