"""Validation leaves the training producers alone, in the middle of an epoch and between epochs."""

from __future__ import annotations

from functools import partial

import pytest

from fkat.data import DataModule
from tests.ahead import await_ahead, num_ahead, pids
from tests.lightning.ours import MixtureModel, Ours, mixture, sharded, single
from tests.lightning.training import QUIET, Cut, Model, Trainer, train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

COUNT = 12
FULL = 2  # microbatches ahead in each ring
PROCESSES = {"multiprocessing": True, "multiprocessing_context": "fork"}


def of_single(count=COUNT):
    return single(count, **PROCESSES)


def of_stream(count=COUNT):
    return single(count, stream=True, **PROCESSES)


def of_mixture(count=COUNT):
    halves = {
        name: single(count // 2, 20 * i, named=True, **PROCESSES) for i, name in enumerate("ab")
    }
    return mixture(**halves)


def of_shards(count=COUNT):
    half = count // 2
    return sharded([half - 2, 1, half + 1], **PROCESSES)


class Watching:
    """A model that looks at the training and the validation loader whenever it validates."""

    def __init__(self, expects):
        super().__init__()
        self.expects = expects
        self.train_pids, self.val_pids = set(), set()

    @property
    def loader(self):
        return self.trainer.datamodule._train.loader

    @property
    def is_at_the_end(self):
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed == 2 * COUNT

    def on_train_start(self):
        if self.expects is not None and not self.expects["looks_ahead"]:
            assert self.loader.stats().num_microbatches == 0
            self.await_full()

    def on_validation_start(self):
        super().on_validation_start()
        self.val_pids.add(tuple(pids(self.trainer.val_dataloaders)))
        if self.trainer.sanity_checking:
            return
        self.train_pids.add(tuple(pids(self.loader)))
        self.await_full()

    def on_validation_end(self):
        if self.trainer.sanity_checking:
            return
        self.train_pids.add(tuple(pids(self.loader)))
        self.val_pids.add(tuple(pids(self.trainer.val_dataloaders)))
        if self.expects is not None and not self.is_at_the_end:
            assert num_ahead(self.loader) == self.full

    def await_full(self):
        if self.expects is not None and not self.is_at_the_end:
            await_ahead(self.loader, self.full)

    @property
    def full(self):
        return [FULL] * self.expects["num_producers"]


class WatchingModel(Watching, Model):
    pass


class WatchingMixtureModel(Watching, MixtureModel):
    pass


KINDS = [
    pytest.param(of_single, {"num_producers": 1, "looks_ahead": False}, id="single"),
    pytest.param(of_stream, {"num_producers": 1, "looks_ahead": True}, id="stream"),
    pytest.param(of_mixture, {"num_producers": 2, "looks_ahead": False}, id="mixture"),
    pytest.param(of_shards, None, id="shards"),  # what is ahead depends on the shard
]


@pytest.mark.parametrize(("new", "expects"), KINDS)
def test_producers_run_on_while_the_trainer_validates(new, expects):
    kind = WatchingMixtureModel if new is of_mixture else WatchingModel
    model, undisturbed = kind(expects), kind(None)
    loaders = {"train": new, "val": partial(new, 4)}
    options = {"max_epochs": 2, "val_check_interval": 6}
    trainer = Trainer(**(QUIET | {"num_sanity_val_steps": 2}), **options)
    trainer.fit(model, datamodule=DataModule(loaders))
    Trainer(**QUIET, max_epochs=2).fit(undisturbed, datamodule=DataModule({"train": new}))
    assert model.validated == [0, 6, 12, 18, 24]
    assert model.ids == undisturbed.ids
    assert len(model.train_pids) == len(model.val_pids) == 1
    assert () not in model.train_pids | model.val_pids


N = Ours().per_epoch
CUTS = [
    Cut("on_train_batch_end", N),
    Cut("on_train_epoch_end", N),
    Cut("on_validation_end", 2 * N),
    Cut("on_before_backward", N - 1, fails=True),
]


def of_few_shards(count, **options):
    return sharded([count - 4, 0, 4], **options)


NEW = {"single": single, "stream": partial(single, stream=True), "shards": of_few_shards}


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("new", NEW.values(), ids=NEW)
def test_what_is_made_ahead_is_in_no_checkpoint(new, cut, tmp_path):
    setting = Ours(validates=True)
    factory = partial(new, N, **PROCESSES)
    nothing_ahead = train(setting, factory=partial(new, N, multiprocessing=False))
    first = train(setting, cut, tmp_path / "cut.ckpt", factory=factory)
    second = train(setting, resume=first.checkpoint, factory=factory)
    assert first.ids[: cut.count] + second.ids == nothing_ahead.ids
    assert second.weight == nothing_ahead.weight


class Waits(Model):
    """Looks at its training loader before anything is asked of it."""

    def on_train_start(self):
        await_ahead(self.trainer.datamodule._train.loader, [3, 3])


def test_the_training_loader_is_prepared_when_it_is_built():
    # It has no len() to be asked for, nor is there a first microbatch to look at.
    trainer = Trainer(**QUIET, max_epochs=1, limit_train_batches=3)
    loader = partial(sharded, [6, 6], **PROCESSES)
    trainer.fit(Waits(), datamodule=DataModule({"train": loader}))
