"""What device mode has to reach, and whether a stored result says that it did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.device.cases import COPY_SIZES, STEPS
from benchmarks.harness.spread import Spread

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class DeviceSummary:
    """Medians and spread over all rounds.

    Attributes:
        copies: Size of a microbatch -> figure -> GiB/s.
        copy_percent: Size -> our copies in percent of the pinned ones of the same run.
        steps: Step -> loader -> milliseconds a step.
        peaks: The same -> bytes of device memory allocated at most, the model's not counted.
        trainer: Clock (``wall_us``, ``cpu_us``) -> microseconds of ``next()``.
        registration: Seconds per GiB that was page-locked; None if none was.
    """

    copies: dict[int, dict[str, Spread]]
    copy_percent: dict[int, Spread]
    steps: dict[str, dict[str, Spread]]
    peaks: dict[str, dict[str, Spread]]
    trainer: dict[str, Spread]
    registration: Spread | None


def summarise(results: Mapping[str, Any]) -> DeviceSummary:
    """Pool the repeats of all rounds."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in results["runs"]:
        runs[run["kind"]].append(run)
    rates: dict[tuple[int, str], list[float]] = defaultdict(list)
    percent: dict[int, list[float]] = defaultdict(list)
    for run in runs["copy"]:
        figures = run["gib_per_s"]
        for name, values in figures.items():
            rates[run["nbytes"], name] += values
        pairs = zip(figures["ours"], figures["pinned"], strict=True)
        percent[run["nbytes"]] += [100 * ours / pinned for ours, pinned in pairs]
    steps: dict[tuple[str, str], list[float]] = defaultdict(list)
    peaks: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in runs["step"]:
        steps[run["step"], run["subject"]] += run["step_ms"]
        peaks[run["step"], run["subject"]].append(run["peak_allocated_nbytes"])
    trainer: dict[str, list[float]] = defaultdict(list)
    for run in runs["trainer"]:
        for clock in ("wall_us", "cpu_us"):
            trainer[clock] += run[clock]
    registered = [run for run in runs["copy"] if run["pinned_nbytes"] > 0]
    per_gib = [run["pinning_s"] * GIB / run["pinned_nbytes"] for run in registered]
    return DeviceSummary(
        _nested(rates),
        {nbytes: Spread.of(values) for nbytes, values in percent.items()},
        _nested(steps),
        _nested(peaks),
        {clock: Spread.of(values) for clock, values in trainer.items()},
        Spread.of(per_gib) if per_gib else None,
    )


def _nested(values: Mapping[tuple[Any, str], list[float]]) -> dict[Any, dict[str, Spread]]:
    nested: dict[Any, dict[str, Spread]] = defaultdict(dict)
    for (outer, inner), each in values.items():
        nested[outer][inner] = Spread.of(each)
    return dict(nested)


@dataclass(frozen=True)
class DeviceBar:
    """One promise: a figure from the medians (KeyError if it was not measured), and its limit."""

    what: str
    figure: Callable[[DeviceSummary], float]
    limit: float
    at_least: bool
    unit: str


@dataclass(frozen=True)
class Verdict:
    """A bar, and its figure; None where that was not measured."""

    bar: DeviceBar
    figure: float | None

    @property
    def reached(self) -> bool:
        """Whether the bar was measured and reached."""
        if self.figure is None:
            return False
        limit = self.bar.limit
        return self.figure >= limit if self.bar.at_least else self.figure <= limit


def _copy_bar(nbytes: int) -> DeviceBar:
    return DeviceBar(
        f"copies of {nbytes // MIB} MiB, of the best pinned ones",
        lambda summary: summary.copy_percent[nbytes].median,
        95,
        True,
        "%",
    )


def _step_bar(step: str) -> DeviceBar:
    def figure(summary: DeviceSummary) -> float:
        rows = summary.steps[step]
        return rows["fkat"].median / rows["resident"].median

    return DeviceBar(f"{step}: step, of compute alone", figure, 1.02, False, "x")


def _speedup(summary: DeviceSummary) -> float:
    rows = summary.steps["copy-heavy"]
    return rows["dataloader"].median / rows["fkat"].median


BARS = (
    *(_copy_bar(nbytes) for nbytes in COPY_SIZES if nbytes >= MIB),
    *(_step_bar(name) for name, step in STEPS.items() if step.compute_per_copy > 1),
    DeviceBar("copy-heavy: rate, of DataLoader(pin_memory=True)", _speedup, 1.3, True, "x"),
    DeviceBar(
        "trainer's thread, microbatch of 20 tensors",
        lambda summary: summary.trainer["wall_us"].median,
        60,
        False,
        "us",
    ),
)


def judge(summary: DeviceSummary) -> list[Verdict]:
    """Hold every bar against the medians."""
    verdicts = []
    for bar in BARS:
        try:
            verdicts.append(Verdict(bar, bar.figure(summary)))
        except KeyError:
            verdicts.append(Verdict(bar, None))
    return verdicts
