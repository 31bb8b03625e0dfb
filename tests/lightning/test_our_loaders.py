"""Every loader of this package in every stage: its device, its end, and other numbers of ranks."""

from __future__ import annotations

import functools
import re
import warnings

import pytest
import torch

from fkat.data import DataModule
from tests.lightning.ours import MixtureModel, Open, Ours, mixture, sharded, single
from tests.lightning.training import QUIET, Cut, CutOffError, Trainer, train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own


def of_single(**options):
    return single(3, named=True, **options)


def of_sharded(**options):
    return sharded([2, 0, 1], named=True, **options)


def of_both(**options):
    return mixture(a=of_single(**options), b=of_sharded(**options))


EACH_LOADER = pytest.mark.parametrize("new_loader", [of_single, of_sharded, of_both])
STAGES = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["predict"]}


def dealt(first):
    return single(4, first, named=True, dp_size=1)


def plain(first):
    return Open(named=True)([first, first + 1])


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


@pytest.mark.parametrize(
    ("children", "is_warned_of"),
    [({"a": dealt}, False), ({"a": dealt, "b": plain}, True)],
    ids=["all dealt by us", "one by its factory"],
)
def test_another_number_of_processes_is_warned_of_where_parts_change(
    children, is_warned_of, tmp_path
):
    def factory():
        return mixture(**{name: new(100 * i) for i, (name, new) in enumerate(children.items())})

    path = tmp_path / "cut.ckpt"
    train(Ours(), Cut("on_train_batch_end", 2), path, factory=factory, model=MixtureModel())
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["DataModule"]["world_size"] = 4
    torch.save(checkpoint, path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train(Ours(), resume=path, factory=factory, model=MixtureModel())
    told = [re.search(r"saved by \d processes and is loaded by \d", str(w.message)) for w in seen]
    expected = ["saved by 4 processes and is loaded by 1"] if is_warned_of else []
    assert [match[0] for match in told if match] == expected
