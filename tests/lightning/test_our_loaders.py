"""Every loader of this package in every stage: its device, its end, and what it leaves behind."""

from __future__ import annotations

import functools

import pytest
import torch

from fkat.data import DataModule
from tests.lightning.ours import MixtureModel, mixture, sharded, single
from tests.lightning.training import QUIET, CutOffError, Trainer

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own


def of_single(**options):
    return single(3, named=True, **options)


def of_sharded(**options):
    return sharded([2, 0, 1], named=True, **options)


def of_both(**options):
    return mixture(a=of_single(**options), b=of_sharded(**options))


EACH_LOADER = pytest.mark.parametrize("new_loader", [of_single, of_sharded, of_both])
STAGES = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["predict"]}


class AnyModel(MixtureModel):
    """Trains on dicts, and notes where the tensors of every stage are."""

    def __init__(self):
        super().__init__()
        self.devices = []

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.devices.append(batch["x"].device.type)  # before Lightning moves it
        return {"x": torch.zeros(1), "dataset": "a"}

    def validation_step(self, batch, batch_idx):
        pass

    test_step = predict_step = validation_step


def run(fn, data, model=None, **options):
    trainer = Trainer(**QUIET, max_epochs=2, **options)
    getattr(trainer, fn)(model or AnyModel(), datamodule=data)


@EACH_LOADER
@pytest.mark.parametrize("fn", STAGES)
def test_every_microbatch_is_on_the_device_from_the_first_on(fn, new_loader):
    model = AnyModel()
    data = DataModule(dict.fromkeys(STAGES[fn], new_loader))
    data.set_device(torch.device("meta"))  # not the trainer's, so as to be seen
    run(fn, data, model)
    assert set(model.devices) == {"meta"}
    assert len(model.devices) == (6 if new_loader is of_both else 3) * (4 if fn == "fit" else 1)


@EACH_LOADER
@pytest.mark.parametrize("fn", STAGES)
def test_a_stage_leaves_no_process(fn, new_loader):
    factory = functools.partial(new_loader, multiprocessing=True)
    run(fn, DataModule(dict.fromkeys(STAGES[fn], factory)))


@EACH_LOADER
@pytest.mark.parametrize("hook", ["training_step", "validation_step", "on_train_epoch_end"])
def test_an_exception_leaves_no_process(hook, new_loader):
    def fail(*_):
        raise CutOffError

    model = AnyModel()
    setattr(model, hook, fail)
    factory = functools.partial(new_loader, multiprocessing=True)
    with pytest.raises(CutOffError):
        run("fit", DataModule({"train": factory, "val": factory}), model)
