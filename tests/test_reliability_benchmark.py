"""The script behind the table of docs/reliability.md: that it sees what it is there to see."""

from __future__ import annotations

import sys

import pytest

from benchmarks.reliability import __main__ as command
from benchmarks.reliability.loaders import Items
from benchmarks.reliability.situations import Outcome, maker_killed
from benchmarks.reliability.victim import WrongMicrobatchError, check, number_of


@pytest.mark.parametrize(
    ("outcomes", "text"),
    [
        ([Outcome("works")], "works"),
        ([Outcome("gone after {}", s) for s in (5.0, 0.03, 0.04)], "gone after 40 ms"),
        ([Outcome("gone after {}", 5.04)], "gone after 5 s"),
        ([Outcome("works"), Outcome("Error after {}", 0.5)], "1x works; 1x Error after 0.5 s"),
        ([Outcome("works"), Outcome("hangs"), Outcome("works")], "2x works; 1x hangs"),
    ],
)
def test_a_cell_counts_each_end_and_gives_the_median_time(outcomes, text):
    assert command.cell(outcomes) == text


def test_a_loader_that_is_not_installed_is_shown_as_such(monkeypatch, capsys):
    monkeypatch.setattr(command, "is_installed", lambda loader: False)
    options = ["--loaders", "SPDL, segment pool", "--situations", "kept"]
    monkeypatch.setattr(sys, "argv", ["reliability", *options])
    command.main()
    title = "1500 microbatches are kept, with at most 1024 descriptors"
    assert f"| {title} | not installed |" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("place", [8, 16, 63])
def test_a_trainer_sees_one_wrong_byte(place):
    microbatch = Items(64, "none")[7]
    assert number_of(microbatch) == 7
    check(microbatch, 7)
    microbatch[place] += 1
    with pytest.raises(WrongMicrobatchError):
        check(microbatch, 7)


def test_a_killed_maker_ends_the_run_of_dataloader_and_not_ours():
    # Which error it is depends on what DataLoader was doing: RuntimeError, ConnectionResetError...
    # Its signal handler may raise a second one while the first is being told.
    assert maker_killed("DataLoader").words.endswith(("Error after {}", "code 1 after {}"))
    assert maker_killed("ShmDataLoader") == Outcome("goes on; nothing lost or repeated")
