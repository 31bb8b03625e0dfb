"""Two ranks resume from what rank 0 wrote."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.lightning.ddp_ranks", str(rank), str(folder)],
            cwd=ROOT,
            env={**os.environ, **group, "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate()[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_trains_on_what_was_left(results, rank):
    cases = results[rank]
    assert len(cases) == 56
    resumed = {name: case["resumed"] for name, case in cases.items()}
    assert resumed == {name: case["whole"] for name, case in cases.items()}
    assert all(
        min(ids) >= 10_000 * rank and max(ids) < 10_000 * (rank + 1) for ids in resumed.values()
    )


def test_states_of_all_ranks_are_gathered_unless_one_may_be_gone(results):
    found = {name: case["ranks"] for name, case in results[0].items() if "Merging" in name}
    expected = {name: ["0"] if results[0][name]["fails"] else ["0", "1"] for name in found}
    assert found == expected
