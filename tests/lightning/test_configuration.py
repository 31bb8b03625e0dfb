"""What a data module may be given, and what it makes of it."""

from __future__ import annotations

import pickle

import pytest
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch.profilers import SimpleProfiler
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, get_worker_info

from fkat.data import DataModule
from fkat.data._lightning.dataloader_config import ProfiledWorker
from tests.lightning.loaders import Numbers
from tests.lightning.training import QUIET, Model, Trainer

STAGES = ("train", "val", "test", "predict")

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own


def type_name(value):
    return type(value).__name__


def loader_of(data, stage):
    return getattr(data, f"{stage}_dataloader")()


@pytest.mark.parametrize("stage", STAGES)
def test_arguments_become_a_dataloader(stage):
    loader = loader_of(DataModule({stage: {"dataset": [1, 2, 3], "batch_size": 2}}), stage)
    assert type(loader) is DataLoader
    assert [batch.tolist() for batch in loader] == [[1, 2], [3]]


@pytest.mark.parametrize("stage", STAGES)
def test_a_factory_makes_the_loader(stage):
    assert loader_of(DataModule({stage: lambda: [1, 2]}), stage) == [1, 2]


@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_stage_has_none(stage):
    assert loader_of(DataModule({}), stage) is None


@pytest.mark.parametrize("stage", ["validate", "fit", "", 1, None])
def test_an_unknown_stage_is_refused_by_name(stage):
    with pytest.raises(ValueError, match=f"{stage!r}.*train, val, test, predict"):
        DataModule({stage: list})


@pytest.mark.parametrize("config", [None, 1, "list", [1], object()], ids=type_name)
def test_a_stage_that_is_neither_dict_nor_callable_is_refused(config):
    with pytest.raises(TypeError, match=r"dataloaders\['val'\] must be a dict"):
        DataModule({"val": config})


@pytest.mark.parametrize("dataloaders", [None, [], "train", DataLoader([1])], ids=type_name)
def test_what_is_no_dict_is_refused(dataloaders):
    with pytest.raises(TypeError, match="dataloaders must be a dict"):
        DataModule(dataloaders)


def test_an_argument_that_dataloader_lacks_is_refused():
    with pytest.raises(TypeError, match=r"dataloaders\['train'\].*'batchsize'"):
        DataModule({"train": {"dataset": [1], "batchsize": 2}})


def test_arguments_without_a_dataset_are_refused():
    with pytest.raises(TypeError, match=r"dataloaders\['train'\] lacks.*'dataset'"):
        DataModule({"train": {"batch_size": 2}})


@pytest.mark.parametrize("made", [None, 3])
def test_a_factory_that_makes_no_loader_is_refused(made):
    data = DataModule({"train": lambda: made})
    with pytest.raises(TypeError, match=r"dataloaders\['train'\] must return an iterable"):
        data.train_dataloader()


@pytest.mark.parametrize(("name", "value"), [("profiler", "simple"), ("strict", 1)])
def test_other_arguments_are_checked_by_name(name, value):
    with pytest.raises(TypeError, match=name):
        DataModule({}, **{name: value})


def test_containers_of_omegaconf_are_accepted_and_objects_in_them_stay():
    class Odd:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return index

    dataset = Odd()
    config = OmegaConf.create({"n": 2}, flags={"allow_objects": True})
    config.train = {"dataset": dataset, "batch_size": "${n}"}
    del config.n
    with pytest.raises(Exception, match="n"):
        DataModule(config)
    config = OmegaConf.create(flags={"allow_objects": True})
    config.train = {"dataset": dataset, "batch_size": 2, "batch_sampler": None}
    loader = DataModule(config).train_dataloader()
    assert (loader.dataset, loader.batch_size) == (dataset, 2)


def test_a_plain_dict_may_hold_containers_of_omegaconf():
    config = OmegaConf.create({"dataset": [1, 2, 3], "batch_size": 3})
    loader = DataModule({"val": config}).val_dataloader()
    assert type(loader.dataset) is list
    assert [batch.tolist() for batch in loader] == [[1, 2, 3]]


def worker_numbers(worker_id):
    get_worker_info().dataset.number = 10 + worker_id


class Numbered(torch.utils.data.Dataset):
    number = 0

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.number


def test_workers_run_under_a_copy_of_the_profiler(tmp_path):
    profiler = SimpleProfiler(dirpath=tmp_path, filename="worker")
    config = {
        "dataset": Numbered(),
        "num_workers": 2,
        "worker_init_fn": worker_numbers,
        "multiprocessing_context": "fork",
    }
    loader = DataModule({"train": config}, profiler).train_dataloader()
    assert [int(batch) for batch in loader] == [10, 11]
    del loader
    reports = sorted(tmp_path.iterdir())
    assert [report.name.startswith(f"worker-{i}-") for i, report in enumerate(reports)] == [
        True
    ] * 2
    assert all("fkat.data worker" in report.read_text() for report in reports)
    assert profiler.recorded_durations == {}


def test_the_model_does_not_travel_with_the_profiler():
    profiler = SimpleProfiler()
    trainer = Trainer(**QUIET, max_epochs=1, profiler=profiler)
    model = Model()
    model.big = torch.zeros(1_000_000)
    profiler._lightning_module = model
    assert trainer.profiler is profiler
    assert len(pickle.dumps(ProfiledWorker(profiler, None))) < 100_000
    assert profiler._lightning_module is model


class Seeds(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.initial_seed() % 2**32


def test_lightnings_seeding_of_workers_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    common = {"dataset": Seeds(), "num_workers": 2, "multiprocessing_context": "fork"}
    config = {**common, "generator": torch.Generator().manual_seed(5)}
    theirs = {**common, "generator": torch.Generator().manual_seed(5)}
    profiler = SimpleProfiler(dirpath=tmp_path, filename="worker")
    loader = DataModule({"train": config}, profiler).train_dataloader()
    expected = DataLoader(**theirs, worker_init_fn=pl_worker_init_function)
    assert [int(seed) for seed in loader] == [int(seed) for seed in expected]
    assert [int(seed) for seed in DataLoader(**theirs)] != [int(seed) for seed in loader]


def test_a_model_that_validates_may_be_trained_without_validation():
    model = Model()
    data = DataModule({"train": lambda: Numbers(1)})
    Trainer(**QUIET, max_epochs=1).fit(model, datamodule=data)
    assert (model.ids, model.validated) == ([0], [])


def test_a_subclass_may_make_a_loader_of_its_own():
    class Own(DataModule):
        def val_dataloader(self):
            return [1]

    assert Own({}).val_dataloader() == [1]


def test_it_can_be_pickled():
    data = pickle.loads(pickle.dumps(DataModule({"train": {"dataset": [1, 2]}})))
    assert [int(batch) for batch in data.train_dataloader()] == [1, 2]
    assert data.val_dataloader() is None


def test_a_factory_is_called_once_for_each_loader():
    calls = []

    def factory():
        calls.append(1)
        return Numbers()

    data = DataModule({"train": factory})
    data.prepare_data()
    assert len(calls) == 1
    first = data.train_dataloader()
    assert len(calls) == 1
    assert data.train_dataloader() is not first
    assert len(calls) == 2
    assert first.seen[-1] == ("teardown", None)


def test_a_factory_with_prepare_data_has_it_called_instead_of_being_built():
    calls = []

    class Factory:
        def prepare_data(self):
            calls.append("prepare_data")

        def __call__(self):
            calls.append("build")
            return Numbers()

    DataModule({"train": Factory()}).prepare_data()
    assert calls == ["prepare_data"]
