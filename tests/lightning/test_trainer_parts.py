"""Each part of Lightning's trainer that `_lightning` relies on, by name, and what it does there."""

from __future__ import annotations

import ast
import time
from operator import attrgetter
from pathlib import Path

import pytest
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.distributed import HashStore, distributed_c10d

from fkat.data import DataModule
from fkat.data._lightning import trainer as _lightning
from fkat.data._source.stateful import dump_plain
from tests.lightning.training import QUIET, Trainer

PARTS = [
    "_checkpoint_connector._loaded_checkpoint",
    "accumulate_grad_batches",
    "current_epoch",
    "fit_loop._data_fetcher",
    "fit_loop.epoch_loop.batch_progress",
    "fit_loop.epoch_progress",
    "fit_loop.restarting",
    "global_rank",
    "interrupted",
    "max_epochs",
    "profiler",
    "received_sigterm",
    "reload_dataloaders_every_n_epochs",
    "state.fn",
    "world_size",
]
COUNTS = [
    "current.completed",
    "current.processed",
    "current.ready",
    "current.started",
    "increment_completed",
    "increment_processed",
    "reset_on_run",
    "total.processed",
]


@pytest.mark.parametrize("name", PARTS)
def test_the_trainer_has(name):
    attrgetter(name)(Trainer(**QUIET))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize(
    "progress", ["fit_loop.epoch_loop.batch_progress", "fit_loop.epoch_progress"]
)
def test_its_counts_have(progress, name):
    attrgetter(f"{progress}.{name}")(Trainer(**QUIET))


def test_it_knows_the_last_microbatch():
    assert Trainer(**QUIET).fit_loop.epoch_loop.batch_progress.is_last_batch is False


def test_the_list_is_complete():
    tree = ast.parse(Path(_lightning.__file__).read_text())
    chains = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used = {chain.removeprefix("trainer.") for chain in chains if chain.startswith("trainer.")}
    prefixes = {chain.rsplit(".", n)[0] for chain in used for n in range(1, chain.count(".") + 1)}
    assert used - prefixes == set(PARTS)


@pytest.mark.parametrize("name", ["train_dataloader", "val_dataloader"])
def test_a_missing_stage_is_not_overridden(name):
    assert not is_overridden(name, DataModule({}), LightningDataModule)
    assert is_overridden(name, DataModule({"train": list, "val": list}), LightningDataModule)


def test_the_process_group_has_a_store():
    assert callable(distributed_c10d._get_default_store)


def test_a_state_of_another_save_is_not_taken_for_this_one():
    store = HashStore()
    key = _lightning._key(1)

    def look(tag):
        return _lightning._await_state(store, 1, tag, give_up=time.monotonic())

    assert look((0, 3)) is None
    store.set(key, dump_plain(((0, 3), {"epoch": 1})))
    assert look((0, 3)) == {"epoch": 1}
    assert look((0, 4)) is None
    assert look((1, 3)) is None
