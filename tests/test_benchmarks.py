"""The benchmark suite: a quick run through its command, its checks, and its report of any results.

What the figures are, only a quiet machine can show.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import questions
from benchmarks.harness.environment import ROOT
from benchmarks.harness.question import Bar, Column, Effort, Question, WrongPayloadError
from benchmarks.harness.run import pooled
from benchmarks.harness.stream import (
    percentile_99,
    stretch_length,
    take_what_is_ready,
    timed_passes,
)
from benchmarks.questions import handoff
from benchmarks.report.page import page
from benchmarks.report.summary import summarise
from benchmarks.sources.payload import SpotCheck, compare_all
from benchmarks.sources.ready import ENDLESS, PoolDataset

SMALL = handoff.CASES["c"]
QUICK = Effort(repeats=2, shorten=50)
ASKED = {name: questions.load(name) for name in questions.ORDER}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """What a quick run of one case stores, and what it prints."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    subjects = ["memcpy", "dataloader", "published", "fkat"]
    arguments = ["--quick", "--only-cases", "c", "--only-subjects", *subjects]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "handoff", *arguments, "--output", path],
        cwd=ROOT,
        env={**os.environ, "BENCH_PUBLISHED_PYTHON": str(path.parent / "none")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout


def test_a_quick_run_measures_every_loader_in_every_respect(stored):
    results, _ = stored
    outcomes = {each["subject"]: each for each in results["questions"]["handoff"]["outcomes"]}
    assert list(outcomes) == ["memcpy", "dataloader", "published", "fkat"]
    for subject in ("memcpy", "dataloader", "fkat"):
        assert outcomes[subject]["kind"] == "measured"
        metrics = outcomes[subject]["metrics"]
        assert sorted(metrics) == [
            *("added_mib", "first_s", "p99_wait_us", "trainer_cpu_us", "wall_us"),
            "workers_cpu_us",
        ]
        assert all(len(values) == 1 for values in metrics.values())
        assert metrics["wall_us"][0] > 0
    assert outcomes["memcpy"]["metrics"]["workers_cpu_us"] == [0.0]
    assert outcomes["fkat"]["metrics"]["workers_cpu_us"][0] > 0
    version = results["environment"]["packages"]["torch"]
    assert version.partition("+")[0] == torch.__version__.partition("+")[0]


def test_a_peer_that_is_missing_is_listed_with_the_reason(stored):
    results, printed = stored
    summary = summarise(ASKED["handoff"], results)
    assert summary.reasons["c"] == {
        "published": "not installed: it has no environment of its own here"
    }
    assert "(published): not installed: it has no environment of its own here" in printed


def test_a_package_that_cannot_be_imported_is_no_failure(monkeypatch):
    from benchmarks.harness.one import measure

    monkeypatch.setitem(sys.modules, "spdl", None)
    monkeypatch.setitem(sys.modules, "spdl.pipeline", None)
    outcome = measure("handoff", "c", "spdl-iterate", QUICK)
    assert (outcome.kind, outcome.reason) == ("not installed", "spdl.pipeline is not installed")


def test_the_page_has_the_tables_the_notes_and_the_raw_values_behind_them(stored):
    results, _ = stored
    text = page(results, command.summaries_of(results), "benchmarks/results/x.json")
    assert text.startswith("<!-- Generated: python -m benchmarks --page benchmarks/results/x.json")
    assert handoff.NOTES in text
    titles = [line.split(" | ")[0][2:] for line in text.splitlines() if line.startswith("| ")]
    for subject in ("memcpy", "dataloader", "fkat"):
        assert handoff.SUBJECTS[subject] in titles
    assert "* fkat 0.1.2 (published): not installed" in text


def test_the_page_in_the_documentation_is_that_of_its_results():
    written = ROOT / "docs" / "benchmarks.md"
    if not written.exists():
        pytest.skip("no run of a quiet machine is stored yet")
    text = written.read_text()
    source = text.splitlines()[0].removesuffix(" -->").split(" ")[-1]
    results = json.loads((ROOT / source).read_text())
    assert page(results, command.summaries_of(results), source) == text


@contextmanager
def spoiled(dataset, at, spoil):
    """Every item in order, those whose numbers are in ``at`` spoiled."""
    yield (spoil(dataset[i]) if i in at else dataset[i] for i in range(len(dataset)))


def other_element(item):
    x = item["feature_000"].clone()
    x[-1] += 1
    return {"feature_000": x}


def other_key(item):
    return {"y": item["feature_000"]}


def another_item(item):
    return PoolDataset(SMALL)[1] if torch.equal(item["feature_000"], first()) else first_item()


def first_item():
    return PoolDataset(SMALL)[0]


def first():
    return first_item()["feature_000"]


@pytest.mark.parametrize("spoil", [other_element, other_key, another_item])
@pytest.mark.parametrize("at", [0, 5])
def test_a_wrong_payload_is_caught_in_the_warm_up(spoil, at):
    opened = partial(spoiled, PoolDataset(SMALL), [at], spoil)
    with pytest.raises(WrongPayloadError, match=f"microbatch {at}"):
        timed_passes(opened, None, QUICK, partial(compare_all, SMALL), SpotCheck(SMALL))


def test_a_wrong_payload_is_caught_by_the_spot_check():
    opened = partial(spoiled, PoolDataset(SMALL), range(0, ENDLESS, 50), other_element)

    def check_nothing(index, item):
        pass

    with pytest.raises(WrongPayloadError, match="differs from what was sent"):
        timed_passes(opened, None, QUICK, check_nothing, SpotCheck(SMALL))


@pytest.mark.parametrize("num_items", [9, 11])
def test_an_epoch_of_another_length_is_caught(num_items):
    opened = partial(spoiled, PoolDataset(SMALL, 10), [], None)
    with pytest.raises(WrongPayloadError, match=f"10 microbatches arrived, {num_items} were sent"):
        timed_passes(opened, num_items, QUICK, partial(compare_all, SMALL), SpotCheck(SMALL))


@pytest.mark.parametrize(("wait_s", "num_taken"), [(0.0, 8), (0.3, 1)])
def test_before_the_stretches_only_what_was_ready_is_taken(wait_s, num_taken):
    taken = []

    def waited_for():
        for number in range(ENDLESS):
            time.sleep(wait_s)
            yield number, None

    take_what_is_ready(
        waited_for(), lambda number, item: taken.append(number), Effort(), num_ahead=4
    )
    assert taken == list(range(num_taken))


@pytest.mark.parametrize("num_at_once", [1, 4, 7])
def test_a_stretch_has_whole_bursts(num_at_once):
    def in_bursts():
        for number in range(ENDLESS):
            time.sleep(0.02 if number % num_at_once == 0 else 0)
            yield number, None

    length = stretch_length(in_bursts(), lambda number, item: None, Effort(), num_at_once)
    assert length % num_at_once == 0
    assert length > 0


def outcome(**more):
    return {
        **{"case": "c", "subject": "fkat", "kind": "measured", "reason": "", "seconds": 1.5},
        **{"metrics": {"wall_us": [1.0, 2.0]}, "foreign_cores": 0.1},
        **more,
    }


def test_the_repeats_of_who_is_measured_twice_are_put_together():
    second = outcome(metrics={"wall_us": [3.0]}, foreign_cores=0.4, reason="it hung at exit")
    together = pooled([outcome(), second])
    assert together == outcome(
        metrics={"wall_us": [1.0, 2.0, 3.0]},
        foreign_cores=0.4,
        reason="it hung at exit",
        seconds=3.0,
    )


def test_a_failure_is_not_made_up_for_by_another_measurement():
    failed = outcome(kind="failed", metrics={}, reason="ValueError")
    assert pooled([outcome(), failed]) == failed
    assert pooled([failed, outcome()]) == failed


def test_the_99th_percentile():
    assert percentile_99([float(i) for i in range(101)]) == 99.0
    assert percentile_99([3.0, 1.0, 2.0]) == 3.0


def made_up(**medians):
    """Results of a question with one case, of figures that nobody measured."""
    outcomes = [
        {
            **{"case": "only", "subject": subject, "kind": "measured", "reason": ""},
            **{"metrics": {"wall_us": [us - 1, us, us + 2]}, "foreign_cores": 0.0},
        }
        for subject, us in medians.items()
    ]
    return {"questions": {"made-up": {"seconds": 1.0, "outcomes": outcomes}}}


def ratio(rows):
    return rows["dataloader"]["wall_us"].median / rows["fkat"]["wall_us"].median


FASTER = Bar("only", "rate, times the DataLoader's", "x", 4, True, ratio)
MADE_UP = Question(
    name="made-up",
    title="?",
    cases={"only": "the only case"},
    subjects={"dataloader": "DataLoader", "fkat": "fkat"},
    measure=lambda case, subject, effort: {},
    columns=(Column("wall us", "wall_us"),),
    bars=(FASTER, replace(FASTER, limit=5, at_least=False)),
)


@pytest.mark.parametrize(
    ("fkat_us", "reached"), [(25.0, [True, True]), (10.0, [True, False]), (50.0, [False, True])]
)
def test_a_bar_is_judged_by_the_medians_of_one_run(fkat_us, reached):
    summary = summarise(MADE_UP, made_up(dataloader=100.0, fkat=fkat_us))
    assert [verdict.reached for verdict in summary.verdicts()] == reached


def test_what_was_not_measured_is_not_reached():
    verdicts = summarise(MADE_UP, made_up(fkat=10.0)).verdicts()
    assert [(verdict.figure, verdict.reached) for verdict in verdicts] == [(None, False)] * 2


@pytest.mark.parametrize("name", questions.ORDER)
def test_every_question_is_well_formed(name):
    question = ASKED[name]
    assert question.name == name
    assert question.title.endswith("?")
    assert any(subject.startswith("fkat") for subject in question.subjects)
    assert {bar.case for bar in question.bars} <= set(question.cases)
    assert set(question.twice) <= set(question.subjects)
    assert len(set(question.bars)) == len(question.bars)
    for plot in question.plots:
        assert set(plot.cases or plot.x or ()) <= set(question.cases)
        assert set(plot.subjects or ()) <= set(question.subjects)
    for column in question.columns:
        assert bool(column.metric) != callable(column.style)
    nothing = {"questions": {name: {"seconds": 0.0, "outcomes": []}}}
    assert list(summarise(question, nothing).findings()) == []


def test_an_unknown_question_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["nothing"])
    assert "there is no question 'nothing'; there are handoff, collate" in capsys.readouterr().err
