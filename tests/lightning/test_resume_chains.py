"""Resuming more than once, reloading, and trainers that build loaders before they restore."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from fkat.data import DataModule
from tests.lightning.loaders import Numbers
from tests.lightning.training import QUIET, Cut, Model, Setting, Trainer, train

pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])


class Estimating(Model):
    """Asks for the number of steps, for which Lightning builds the loaders before it restores."""

    def configure_optimizers(self):
        self.num_steps = self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


class RestoresLate(SingleDeviceStrategy):
    """Restores after setting up, as FSDP and DeepSpeed do."""

    restore_checkpoint_after_setup = True


CUTS = [
    Cut("on_train_batch_end", 3),
    Cut("on_train_batch_end", 7),
    Cut("on_train_batch_end", 10),
    Cut("on_train_batch_start", 4),
    Cut("on_before_backward", 9, fails=True),
]
EACH_CUT = pytest.mark.parametrize("cut", CUTS, ids=str)


@SIZES
@pytest.mark.parametrize(
    "counts", [(3, 5), (3, 7), (7, 9), (1, 2, 3), (5, 10, 15), (6, 7, 8, 13, 14)], ids=str
)
def test_resuming_again_and_again(sized, counts, tmp_path):
    setting = Setting(sized)
    ids, path = [], None
    for count in counts:
        ids += train(setting, Cut("on_train_batch_end", count), tmp_path / str(count), path).ids
        path = tmp_path / str(count)
    assert ids + train(setting, resume=path).ids == train(setting).ids


@SIZES
def test_saving_right_after_resuming_keeps_the_position(sized, tmp_path):
    setting = Setting(sized)
    ids = train(setting, Cut("on_train_batch_end", 3), tmp_path / "0").ids
    for i in range(3):
        assert train(setting, Cut("on_train_start", 3), tmp_path / f"{i + 1}", tmp_path / f"{i}")
    assert ids + train(setting, resume=tmp_path / "3").ids == train(setting).ids


@SIZES
@EACH_CUT
def test_with_loaders_reloaded_every_epoch(sized, cut, tmp_path):
    setting = Setting(sized, options=(("reload_dataloaders_every_n_epochs", 1),))
    before = train(setting, cut, tmp_path / "cut.ckpt")
    after = train(setting, resume=before.checkpoint)
    assert before.ids + after.ids == train(Setting(sized)).ids


@SIZES
@EACH_CUT
@pytest.mark.parametrize("model", [Model, Estimating])
@pytest.mark.parametrize("restores_late", [False, True])
def test_with_loaders_built_before_the_checkpoint_is_restored(
    sized, cut, model, restores_late, tmp_path
):
    options = {"strategy": RestoresLate("cpu")} if restores_late else {}
    setting = Setting(sized, by_steps=not sized)
    before = train(setting, cut, tmp_path / "cut.ckpt", model=model())
    after = train(setting, resume=before.checkpoint, model=model(), **options)
    assert before.ids + after.ids == train(Setting(sized)).ids


@SIZES
def test_a_checkpoint_saved_after_fit_goes_on_with_the_next_epoch(sized, tmp_path):
    setting = Setting(sized)
    model, trainer = Model(), setting.new_trainer(epochs=2)
    trainer.fit(model, datamodule=setting.new_data_module())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    after = train(setting, resume=tmp_path / "end.ckpt")
    assert model.ids + after.ids == train(setting).ids


@SIZES
def test_another_fit_of_the_same_trainer_goes_on(sized):
    setting = Setting(sized)
    model, trainer, data = Model(), setting.new_trainer(epochs=1), setting.new_data_module()
    trainer.fit(model, datamodule=data)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, datamodule=data)
    assert model.ids == train(setting).ids


@SIZES
def test_another_trainer_begins_at_the_beginning(sized):
    setting = Setting(sized)
    data = setting.new_data_module()
    for _ in range(2):
        model = Model()
        setting.new_trainer().fit(model, datamodule=data)
        assert model.ids == train(setting).ids


@SIZES
def test_a_checkpoint_without_our_state_is_counted_from_where_it_is(sized, tmp_path):
    """The loop goes on in the middle, the data at the beginning: what is saved is right again."""
    setting = Setting(sized, by_steps=True)
    train(setting, Cut("on_train_batch_end", 3), tmp_path / "0")
    checkpoint = torch.load(tmp_path / "0", weights_only=True)
    del checkpoint["DataModule"]
    torch.save(checkpoint, tmp_path / "1")
    model = Estimating()
    train(setting, Cut("on_train_batch_end", 5), tmp_path / "2", tmp_path / "1", model=model)
    assert model.ids == Numbers(7).order()[:2]
    state = torch.load(tmp_path / "2", weights_only=True)["DataModule"]
    assert (state["num_finished"], state["train"]["position"]) == (5, 2)


@pytest.mark.parametrize("fn", ["validate", "test", "predict"])
def test_other_stages_leave_the_training_position_alone(fn, tmp_path):
    setting = Setting(validates=True)
    train(setting, Cut("on_train_batch_end", 3), tmp_path / "cut.ckpt")
    others = dict.fromkeys(["val", "test", "predict"], lambda: Numbers(2))
    data = DataModule({"train": setting.new_loader, **others})
    model, trainer = Model(), Trainer(**QUIET)
    model.test_step = model.predict_step = model.validation_step
    getattr(trainer, fn)(model, datamodule=data, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    assert data.state_dict() == {}
    fresh = Model()
    setting.new_trainer().fit(fresh, datamodule=data)
    assert fresh.ids == train(setting).ids
