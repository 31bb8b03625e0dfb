"""States that cannot be loaded, and trainers that do what they should not."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from fkat.data import DataModule, ShmDataLoader
from fkat.data.errors import ProducerDiedError, StalledError, StateError
from tests.lightning.loaders import Numbers
from tests.lightning.training import (
    Cut,
    Model,
    Setting,
    train,
)


@pytest.fixture
def checkpoint(tmp_path):
    train(Setting(), Cut("on_train_batch_end", 3), tmp_path / "cut.ckpt")
    return torch.load(tmp_path / "cut.ckpt", weights_only=True)


def resume(checkpoint, state, path):
    checkpoint["DataModule"] = state
    torch.save(checkpoint, path)
    return train(Setting(), resume=path)


pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)


def test_the_state_has_these_keys(checkpoint):
    assert checkpoint["DataModule"] == {
        "version": 2,
        "class": "DataModule",
        "world_size": 1,
        "num_finished": 3,
        "is_at_step_boundary": True,
        "train": {"version": 2, "class": "Numbers", "epoch": 0, "position": 3},
    }


def test_lightning_keeps_no_position_of_its_own(checkpoint):
    assert checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{}]


def test_a_newer_state_is_refused(checkpoint, tmp_path):
    state = {**checkpoint["DataModule"], "version": 99}
    with pytest.raises(StateError, match=r"version 99.*upgrade"):
        resume(checkpoint, state, tmp_path / "new.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_finished": "3"}, "'num_finished'.*int.*'3'"),
        ({"more": 1}, "'more'"),
        ({"train": None}, "'train'"),
        ({"train": {}, "world_size": None}, "'world_size'"),
    ],
    ids=str,
)
def test_a_damaged_state_is_refused(change, message, checkpoint, tmp_path):
    state = {**checkpoint["DataModule"], **change}
    with pytest.raises(StateError, match=message):
        resume(checkpoint, state, tmp_path / "new.ckpt")


def test_a_state_with_a_key_missing_is_refused(checkpoint, tmp_path):
    state = checkpoint["DataModule"]
    del state["num_finished"]
    with pytest.raises(StateError, match="lacks 'num_finished'"):
        resume(checkpoint, state, tmp_path / "new.ckpt")


@pytest.mark.parametrize(
    "state",
    [{"train": {}, "rng_states": {}}, {"class": "Other", "version": 9}, [1, 2], "state"],
    ids=["published", "other", "list", "text"],
)
def test_a_foreign_state_is_ignored_with_a_warning(state, checkpoint, tmp_path):
    with pytest.warns(UserWarning, match="another DataModule"):
        run = resume(checkpoint, state, tmp_path / "new.ckpt")
    assert run.ids[:4] == Numbers().order()[:4]


def test_an_empty_state_changes_nothing():
    data = DataModule({"train": Numbers})
    data.load_state_dict({})
    assert data.state_dict() == {}


def test_a_state_of_another_loader_is_refused(checkpoint, tmp_path):
    state = {**checkpoint["DataModule"], "train": {"version": 1, "class": "Sharded", "epoch": 0}}
    with pytest.raises(StateError, match=r"'Sharded'.*Numbers"):
        resume(checkpoint, state, tmp_path / "new.ckpt")


def test_another_number_of_processes_is_warned_of(checkpoint, tmp_path):
    state = {**checkpoint["DataModule"], "world_size": 4}
    with pytest.warns(UserWarning, match="saved by 4 processes and is loaded by 1"):
        resume(checkpoint, state, tmp_path / "new.ckpt")


def test_strict_is_passed_on(tmp_path):
    seen = []

    class Noting(Numbers):
        def load_state_dict(self, state, strict=True):
            seen.append(strict)
            super().load_state_dict(state, strict)

    state = Numbers().state_dict()
    whole = {"world_size": 1, "num_finished": 0, "is_at_step_boundary": True, "train": state}
    for strict in (True, False):
        data = DataModule({"train": lambda: Noting(sized=False)}, strict=strict)
        data.load_state_dict({"version": 1, "class": "DataModule", **whole})
        Setting().new_trainer(epochs=1).fit(Model(), datamodule=data)
    assert seen == [True, False]


def test_a_state_loaded_by_hand_is_gone_on_from():
    data = DataModule({"train": Numbers})
    state = {**Numbers().state_dict(), "position": 4}
    whole = {"world_size": 1, "num_finished": 1, "is_at_step_boundary": True, "train": state}
    data.load_state_dict({"version": 1, "class": "DataModule", **whole})
    model = Model()
    trainer = Setting().new_trainer(epochs=1)
    trainer.fit(model, datamodule=data)
    assert model.ids == Numbers().order()[4:]
    assert data.state_dict()["train"] == {**state, "epoch": 1, "position": 0}
    assert data.state_dict()["num_finished"] == 3


def test_saving_within_an_accumulated_gradient_is_warned_of(tmp_path):
    setting = Setting(accumulate=2)
    with pytest.warns(UserWarning, match="before the optimizer step"):
        train(setting, Cut("on_train_batch_end", 3), tmp_path / "3")
    train(setting, Cut("on_train_batch_end", 4), tmp_path / "4")
    train(setting, Cut("on_train_batch_end", 7), tmp_path / "7")


def test_a_position_that_the_trainer_cannot_have_is_an_error():
    model, setting = Model(), Setting()
    data = setting.new_data_module()

    def steal(batch, batch_idx):
        trainer = model.trainer
        if batch_idx == 3:
            trainer.fit_loop.epoch_loop.batch_progress.total.processed += 5
        return Model.training_step(model, batch, batch_idx)

    model.training_step = steal
    with pytest.raises(RuntimeError, match=r"finished \d+ .* delivered \d"):
        setting.new_trainer().fit(model, datamodule=data)


@pytest.mark.parametrize("error", [StalledError("late"), ProducerDiedError("dead", 1, -15)])
@pytest.mark.parametrize("told", [True, False])
def test_a_wait_that_fails_after_sigterm_ends_as_sigterm_does(error, told):
    class Failing(Numbers):
        def __next__(self):
            if self.position == 2:
                trainer._signal_connector.received_sigterm = told
                raise error
            return super().__next__()

    trainer = Setting().new_trainer()
    with pytest.raises(SIGTERMException if told else type(error)):
        trainer.fit(Model(), datamodule=DataModule({"train": lambda: Failing(sized=False)}))


def numbers():
    return [torch.tensor([i]) for i in range(7)]


def test_text_starts_no_process():
    data = DataModule({"train": lambda: ShmDataLoader(0, numbers)})
    assert "train" in str(data)
    loader = data.train_dataloader()
    assert "train" in repr(data)
    assert loader.stats() == ShmDataLoader(0, numbers).stats()
