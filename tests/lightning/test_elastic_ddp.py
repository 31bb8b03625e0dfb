"""Runs of two ranks that resume from what rank 0 wrote, among as many ranks or another number."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from fkat.data import DataModule
from tests.lightning.elastic_ranks import ALONE, COUNTS, OTHER, SAME, fit, other_cuts, same_cuts
from tests.lightning.ours import Ours
from tests.lightning.training import Cut, Model

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

CASES = [(kind, cut) for kind in OTHER for cut in other_cuts(COUNTS[kind])]
EACH_CASE = pytest.mark.parametrize(("kind", "cut"), CASES, ids=str)
EACH_KIND = pytest.mark.parametrize("kind", OTHER)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@functools.cache
def alone(kind):
    """Each epoch of one rank that is left alone."""
    n = 2 * COUNTS[kind]
    ids = fit(kind, Ours(count=n), factory=functools.partial(OTHER[kind], 1, 0)).ids
    return [ids[k * n : (k + 1) * n] for k in range(3)]


def resume_alone(kind, path, *args):
    """One rank goes on, and what it says of the number of processes."""
    factory = functools.partial(OTHER[kind], 1, 0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = fit(kind, Ours(count=2 * COUNTS[kind]), *args, resume=path, factory=factory)
    assert [str(w.message) for w in seen if "processes" in str(w.message)] == []
    return run.ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("elastic")


@pytest.fixture(scope="module")
def saved_alone(folder):
    """What one rank has seen, of each kind, before it was cut off."""
    return {
        kind: fit(
            kind,
            Ours(count=2 * COUNTS[kind]),
            Cut("on_train_batch_end", count),
            folder / f"one-{kind}.ckpt",
            factory=functools.partial(OTHER[kind], 1, 0),
        ).ids
        for kind, count in ALONE.items()
    }


@pytest.fixture(scope="module")
def ranks(folder, saved_alone):
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.lightning.elastic_ranks", str(rank), str(folder)],
            cwd=ROOT,
            env={**os.environ, **group, "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


class TestByAsManyRanks:
    @pytest.mark.parametrize("rank", [0, 1])
    def test_each_goes_on_exactly_where_it_was(self, ranks, rank):
        cases = ranks[rank]["resumed_by_two"]
        assert len(cases) == len(SAME) * len(list(same_cuts(12)))
        resumed = {name: case["resumed"] for name, case in cases.items()}
        assert resumed == {name: case["whole"] for name, case in cases.items()}

    def test_each_has_its_own_shards(self, ranks):
        [first, second] = (
            next(iter(rank["resumed_by_two"].values()))["whole"][:12] for rank in ranks
        )
        assert {i // 100 for i in first} == {0, 1, 2, 3}
        assert {i // 100 for i in second} == {4, 5, 6, 7}

    @pytest.mark.parametrize("cut", same_cuts(12), ids=str)
    def test_the_place_of_every_rank_is_saved_unless_one_may_be_gone(self, ranks, folder, cut):
        path = folder / f"sharded-{cut}.ckpt"
        state = torch.load(path, weights_only=True)["DataModule"]["train"]
        [[_, positions]] = state["dealings"]
        is_counted = cut.fails and state["microbatch"] > 0
        assert [position is None for position in positions] == [False, is_counted]


class TestByOneRank:
    @EACH_CASE
    def test_every_sample_of_every_epoch_once(self, ranks, folder, kind, cut):
        name = f"two-{kind}-{cut}"
        before = [rank["saved_by_two"][name] for rank in ranks]
        after = resume_alone(kind, folder / f"{name}.ckpt")
        epoch, count = divmod(cut.count, COUNTS[kind])
        begun = [i for ids in before for i in ids[epoch * COUNTS[kind] :]]
        left = 2 * COUNTS[kind] - len(begun)
        assert len(begun) == 2 * count
        assert sorted(begun + after[:left]) == sorted(alone(kind)[epoch])
        assert after[left:] == [i for ids in alone(kind)[epoch + 1 :] for i in ids]

    @EACH_KIND
    def test_that_is_cut_off_again(self, ranks, folder, kind, tmp_path):
        name = f"two-{kind}-{Cut('on_train_batch_end', 4)}"
        ids = [i for rank in ranks for i in rank["saved_by_two"][name]]
        path = tmp_path / "cut.ckpt"
        ids += resume_alone(kind, folder / f"{name}.ckpt", Cut("on_train_batch_end", 6), path)
        ids += resume_alone(kind, path)
        epochs = alone(kind)
        n = len(epochs[0])
        assert sorted(ids[:n]) == sorted(epochs[0])
        assert ids[n:] == epochs[1] + epochs[2]

    @pytest.mark.parametrize("count", [4, 9])
    def test_its_loader_is_built_anew_once_where_an_epoch_is_of_another_length(
        self, ranks, folder, count
    ):
        hook = "on_train_epoch_end" if count == 9 else "on_train_batch_end"
        built = []

        def factory():
            loader = OTHER["dealt"](1, 0)
            built.append(loader)
            return loader

        path = folder / f"two-dealt-{Cut(hook, count)}.ckpt"
        model, trainer = Model(), Ours().new_trainer()
        trainer.fit(
            model, datamodule=DataModule({"train": factory}), ckpt_path=path, weights_only=True
        )
        assert len(built) == (2 if count == 4 else 1)
        assert trainer.reload_dataloaders_every_n_epochs == 0


class TestByMoreRanks:
    @EACH_KIND
    def test_every_sample_of_the_epoch_once(self, ranks, saved_alone, kind):
        left = COUNTS[kind] - ALONE[kind] // 2
        after = [rank["saved_by_one"][f"one-{kind}"]["after"][:left] for rank in ranks]
        assert sorted(saved_alone[kind] + after[0] + after[1]) == sorted(alone(kind)[0])

    @EACH_KIND
    @pytest.mark.parametrize("rank", [0, 1])
    def test_the_epochs_after_it_are_whole(self, ranks, kind, rank):
        case = ranks[rank]["saved_by_one"][f"one-{kind}"]
        left = COUNTS[kind] - ALONE[kind] // 2
        assert case["after"][left:] == case["whole"][COUNTS[kind] :]
        assert case["warnings"] == []
