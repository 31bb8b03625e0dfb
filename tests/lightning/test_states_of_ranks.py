"""What a rank leaves for the checkpoint is data: it is merged, or refused, and never run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lightning.states_of_ranks import Bomb, sent_instead, state_of

ROOT = Path(__file__).parents[2]
OTHERS = list(sent_instead((0, 0), Bomb(Path())))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("group")


@pytest.fixture(scope="module")
def outcomes(folder):
    """On each rank."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.lightning.states_of_ranks", str(rank), str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [rank.communicate() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    return [json.loads(output) for output, _ in printed]


def test_states_of_plain_types_are_merged(outcomes):
    merged = {"merged": [state_of(0), state_of(1)]}
    assert [rank["a state"] for rank in outcomes] == [str(merged), str(state_of(1))]


@pytest.mark.parametrize("kind", OTHERS)
def test_anything_else_is_an_error_on_rank_0(outcomes, kind):
    words = {
        "no state": "StateError: the state of rank 1 is of type int, not dict",
    }.get(kind, "StateError: what rank 1 left in the process group's store for the checkpoint is ")
    assert outcomes[0][kind].startswith(words)


def test_no_code_that_it_names_is_run(outcomes, folder):
    assert list(outcomes[0]) == ["a state", *OTHERS]
    assert not (folder / "exploded").exists()
