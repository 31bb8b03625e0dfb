"""The same with a producer process behind the loader."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from fkat.data import DataModule, ShmDataLoader
from tests.lightning.training import Cut, CutOffError, Model, Setting, train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

CUTS = [
    Cut("on_train_batch_end", 3),
    Cut("on_train_batch_end", 7),
    Cut("on_train_batch_start", 10),
    Cut("on_train_epoch_end", 7),
    Cut("on_train_epoch_start", 14),
    Cut("on_before_backward", 9, fails=True),
]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(7))


def shuffled():
    return DataLoader(range(7), batch_size=1, shuffle=True)


def stream():
    return DataLoader(Stream(), batch_size=1)


def new_loader(sized, multiprocessing):
    factory = shuffled if sized else stream
    return ShmDataLoader(5, factory, 2, multiprocessing=multiprocessing)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_what_was_left_is_trained(multiprocessing, sized, cut, tmp_path):
    factory = functools.partial(new_loader, sized, multiprocessing)
    setting = Setting(sized, validates=sized)
    before = train(setting, cut, tmp_path / "cut.ckpt", factory=factory)
    after = train(setting, resume=before.checkpoint, factory=factory)
    whole = train(setting, factory=factory)
    assert before.ids + after.ids == whole.ids
    assert after.weight == whole.weight


def test_an_epoch_is_in_another_order_than_the_last():
    ids = train(Setting(), factory=functools.partial(new_loader, True, True)).ids
    assert len({tuple(ids[k : k + 7]) for k in (0, 7, 14)}) == 3


@pytest.mark.parametrize("hook", ["training_step", "on_train_epoch_start", "on_validation_end"])
def test_an_exception_leaves_no_process(hook):
    def fail(*_):
        raise CutOffError

    model = Model()
    setattr(model, hook, fail)
    factory = functools.partial(new_loader, True, True)
    with pytest.raises(CutOffError):
        Setting(validates=True).new_trainer().fit(
            model, datamodule=DataModule({"train": factory, "val": factory})
        )


def test_a_sanity_check_and_limits_leave_no_process():
    factory = functools.partial(new_loader, True, True)
    model = Model()
    trainer = Setting(validates=True, limit=2).new_trainer(epochs=2)
    trainer.num_sanity_val_steps = 1
    trainer.limit_val_batches = 1
    trainer.fit(model, datamodule=DataModule({"train": factory, "val": factory}))
    assert len(model.ids) == 4


def test_the_position_is_known_before_the_producer_is_started():
    data = DataModule({"train": functools.partial(new_loader, False, True)})
    model = Model()
    states = []
    model.on_train_start = lambda: states.append(data.state_dict())
    Setting(False).new_trainer(epochs=1).fit(model, datamodule=data)
    assert states[0]["num_finished"] == 0
    assert torch.tensor(model.ids).tolist() == list(range(7))
