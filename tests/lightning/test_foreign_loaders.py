"""Stateful loaders of others: a plain class, and torchdata's."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from fkat.data import DataModule
from tests.lightning.training import Cut, Model, Setting, train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own


class Cursor:
    """Goes on where it stands at each ``iter()``, and begins anew only after its end."""

    def __init__(self):
        self.state = {"position": 0}
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        while self.state["position"] < 7:
            self.state["position"] += 1
            yield torch.tensor([100 * self.epoch + self.state["position"]])
        self.state["position"] = 0

    def state_dict(self):
        return self.state  # itself, not a copy

    def load_state_dict(self, state):
        self.state = state


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(7))


class Rotated(Sampler):
    """Another order for each epoch that it is told."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 7

    def __iter__(self):
        return iter([(i + self.epoch) % 7 for i in range(7)])


FACTORIES = {
    "cursor": Cursor,
    "map": lambda: StatefulDataLoader(range(7), batch_size=1),
    "stream": lambda: StatefulDataLoader(Stream(), batch_size=1),
    "rotated": lambda: StatefulDataLoader(range(7), batch_size=1, sampler=Rotated()),
}
CUTS = [
    Cut("on_train_batch_end", 3),
    Cut("on_train_batch_end", 7),
    Cut("on_train_batch_end", 10),
    Cut("on_train_batch_start", 4),
    Cut("on_train_epoch_end", 7),
    Cut("on_train_epoch_start", 14),
    Cut("on_before_backward", 9, fails=True),
    Cut("on_before_backward", 6, fails=True),
]


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.parametrize("validates", [False, True])
def test_what_was_left_is_trained(kind, cut, validates, tmp_path):
    setting, factory = Setting(validates=validates), FACTORIES[kind]
    before = train(setting, cut, tmp_path / "cut.ckpt", factory=factory)
    after = train(setting, resume=before.checkpoint, factory=factory)
    whole = train(setting, factory=factory).ids
    assert len(whole) == 21
    assert before.ids + after.ids == whole


def test_the_rotation_is_seen():
    ids = train(Setting(), factory=FACTORIES["rotated"]).ids
    assert ids[7:9] == [1, 2]


@pytest.mark.parametrize("cut", [CUTS[0], CUTS[-1]], ids=str)
def test_with_workers(cut, tmp_path):
    def factory():
        return StatefulDataLoader(range(7), batch_size=1, num_workers=1, sampler=Rotated())

    before = train(Setting(), cut, tmp_path / "cut.ckpt", factory=factory)
    after = train(Setting(), resume=before.checkpoint, factory=factory)
    assert before.ids + after.ids == train(Setting(), factory=FACTORIES["rotated"]).ids


@pytest.mark.parametrize("limit", [1, 5])
def test_an_epoch_cut_short_is_followed_by_a_whole_one(limit, tmp_path):
    setting, factory = Setting(limit=limit), FACTORIES["rotated"]
    cut = Cut("on_train_batch_end", 2 * limit)
    before = train(setting, cut, tmp_path / "cut.ckpt", factory=factory)
    after = train(setting, resume=before.checkpoint, factory=factory)
    assert before.ids + after.ids == train(setting, factory=factory).ids


def test_a_state_that_is_not_plain_is_warned_of(tmp_path):
    class Odd(Cursor):
        def state_dict(self):
            return {**self.state, "odd": Cursor()}

    model = Model()
    trainer = Setting().new_trainer()
    trainer.fit(model, datamodule=DataModule({"train": Odd}))
    with pytest.warns(UserWarning, match="state of Odd is not of plain types"):
        Setting().new_trainer(epochs=1).fit(model, datamodule=DataModule({"train": Odd}))


def test_a_plain_dataloader_is_handed_over_as_it_is():
    trainer = Setting().new_trainer(epochs=1)
    trainer.fit(Model(), datamodule=DataModule({"train": lambda: DataLoader([1, 2])}))
    assert type(trainer.train_dataloader) is DataLoader
