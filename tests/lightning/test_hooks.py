"""Every hook arrives at whichever has it, and before the first microbatch."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from fkat.data import DataModule
from tests.lightning.loaders import Numbers
from tests.lightning.training import QUIET, CutOffError, Model, Setting, Trainer

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

HOOKS = ("prepare_data", "setup", "set_device", "teardown", "on_exception")


class Witness:
    """Notes the hooks that it gets, in a list that all witnesses share."""

    def __init__(self, name, seen):
        self.name = name
        self.seen = seen


def _note(hook):
    def method(self, *args):
        self.seen.append((self.name, hook, *map(str, args)))

    return method


for _hook in (*HOOKS, "on_save_checkpoint", "on_load_checkpoint"):
    setattr(Witness, _hook, _note(_hook))


class SeenDataset(Witness, Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.seen.append((self.name, "read"))
        return torch.tensor(index)


class SeenSampler(Witness, SequentialSampler):
    def __iter__(self):
        return iter(range(3))

    def __len__(self):
        return 3


class SeenBatchSampler(Witness, BatchSampler):
    def __iter__(self):
        return iter([[0], [1], [2]])

    def __len__(self):
        return 3


class SeenLoader(Witness):
    def __iter__(self):
        self.seen.append((self.name, "read"))
        return iter([torch.tensor([0])])


class Every(LightningModule):
    """Does nothing, in every stage."""

    def training_step(self, batch, batch_idx):
        return None

    def validation_step(self, batch, batch_idx):
        pass

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return None


STAGES = {
    "fit": ["train", "val"],
    "validate": ["val"],
    "test": ["test"],
    "predict": ["predict"],
}


def run(fn, data, **options):
    trainer = Trainer(**QUIET, max_epochs=1, **options)
    getattr(trainer, fn)(Every(), datamodule=data)


@pytest.mark.parametrize("fn", STAGES)
def test_the_hooks_come_before_the_first_microbatch_in_every_stage(fn):
    seen = []
    data = DataModule(
        {s: lambda s=s: SeenLoader(s, seen) for s in ("train", "val", "test", "predict")}
    )
    run(fn, data)
    for stage in STAGES[fn]:
        own = [note[1:] for note in seen if note[0] == stage]
        assert own[:3] == [("prepare_data",), ("set_device", "cpu"), ("setup", fn)]
        assert own[-1] == ("teardown", fn)
        assert set(own[3:-1]) == {("read",)}
    assert {note[0] for note in seen} == set(STAGES[fn])


def test_dataset_and_sampler_of_a_config_get_them():
    seen = []
    config = {"dataset": SeenDataset("dataset", seen), "sampler": SeenSampler("sampler", seen)}
    run("fit", DataModule({"train": config}))
    hooks = [note for note in seen if note[1] != "read"]
    assert hooks == [
        (name, *hook)
        for hook in [
            ("prepare_data",),
            ("set_device", "cpu"),
            ("setup", "fit"),
            ("teardown", "fit"),
        ]
        for name in ("dataset", "sampler")
    ]
    assert seen.index(("dataset", "read")) > seen.index(("sampler", "setup", "fit"))


def test_the_batch_sampler_and_its_sampler_get_them():
    seen = []

    def factory():
        dataset, sampler = SeenDataset("dataset", seen), SeenSampler("sampler", seen)
        batch_sampler = SeenBatchSampler("batch sampler", seen)
        batch_sampler.sampler = sampler
        return DataLoader(dataset, batch_sampler=batch_sampler)

    run("fit", DataModule({"train": factory}))
    setups = [note[0] for note in seen if note[1] == "setup"]
    assert setups == ["dataset", "batch sampler", "sampler"]


def test_an_exception_stops_every_loader_and_leaves_the_exception_alone():
    loaders = {"train": Numbers(), "val": Numbers(2)}
    data = DataModule({stage: lambda s=stage: loaders[s] for stage in loaders})

    class Failing(Every):
        def on_validation_end(self):
            raise CutOffError

    with pytest.raises(CutOffError):
        Trainer(**QUIET, max_epochs=1).fit(Failing(), datamodule=data)
    assert [loader.seen[-1] for loader in loaders.values()] == [("on_exception", "CutOffError")] * 2


def test_a_loader_with_teardown_only_is_stopped_by_an_exception():
    stopped = []

    class Plain:
        def __iter__(self):
            raise CutOffError

        def teardown(self, stage):
            stopped.append(stage)

    data = DataModule({"train": Plain})
    with pytest.raises(CutOffError):
        run("fit", data)
    assert stopped == [None]
    data.on_exception(CutOffError())
    data.teardown("fit")
    assert stopped == [None]


def test_a_hook_that_fails_after_an_exception_does_not_hide_it():
    class Broken(Numbers):
        def on_exception(self, exception):
            raise RuntimeError("broken")

    data = DataModule({"train": lambda: Broken(sized=False)})
    data.train_dataloader()
    with pytest.warns(UserWarning, match="broken"):
        data.on_exception(CutOffError())


def test_teardown_reaches_every_loader_though_one_fails():
    class Broken(Numbers):
        def teardown(self, stage):
            raise RuntimeError("broken")

    other = Numbers()
    data = DataModule({"train": lambda: Broken(sized=False), "val": lambda: other})
    data.train_dataloader()
    data.val_dataloader()
    with pytest.raises(RuntimeError, match="broken"):
        data.teardown("fit")
    assert other.seen[-1] == ("teardown", "fit")


def test_set_device_goes_before_the_trainers():
    seen = []
    data = DataModule({"train": lambda: SeenLoader("train", seen)})
    data.set_device(torch.device("meta"))
    run("fit", data)
    assert [note[2] for note in seen if note[1] == "set_device"] == ["meta"]


def test_set_device_reaches_loaders_that_live():
    data = DataModule({"val": Numbers})
    loader = data.val_dataloader()
    data.set_device("cpu")
    assert loader.seen == [("set_device", "cpu")]


def test_the_hooks_of_checkpoints_are_passed_on():
    seen = []
    data = DataModule({"train": lambda: SeenLoader("train", seen)})
    data.train_dataloader()
    data.on_save_checkpoint({"a": 1})
    data.on_load_checkpoint({"b": 2})
    assert seen == [
        ("train", "on_save_checkpoint", "{'a': 1}"),
        ("train", "on_load_checkpoint", "{'b': 2}"),
    ]


def test_the_wait_is_shown_by_the_trainers_profiler():
    trainer = Setting().new_trainer(epochs=1, profiler="simple")
    trainer.fit(Model(), datamodule=DataModule({"train": Numbers}))
    durations = trainer.profiler.recorded_durations
    assert len(durations["[fkat][train]SizedNumbers.wait"]) == 7


def test_text_builds_and_starts_nothing():
    def factory():
        raise AssertionError("built")

    data = DataModule({"train": factory, "val": {"dataset": [1], "batch_size": 1}})
    assert str(data) == "DataModule(train=factory, val=DataLoader(dataset, batch_size))"
    assert repr(data) == str(data)
