"""A resumed run trains on exactly what was left, wherever it was cut off."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from tests.lightning.training import Cut, Setting, train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

# Every combination of any four of the five choices: half of all.
SETTINGS = [
    Setting(sized, validates, accumulate, by_steps, limit)
    for sized, validates, accumulate, by_steps, limit in itertools.product(
        [True, False], [False, True], [1, 2], [False, True], [None, 5]
    )
    if (sized + validates + accumulate + by_steps + (limit is None)) % 2
]


def cuts(setting):
    n = setting.per_epoch
    plain = {
        "on_train_start": (0,),
        "on_train_epoch_start": (0, n, 2 * n),
        "on_train_batch_start": (0, 3, n - 1, n + 2),
        "on_train_batch_end": (1, 3, n, n + 2, 2 * n),
        "on_train_epoch_end": (n, 2 * n),
    }
    if setting.validates:
        plain |= dict.fromkeys(["on_validation_batch_end", "on_validation_end"], (n, 2 * n))
    failing = {
        "on_train_batch_start": (2, n),
        "on_before_backward": (0, 3, n - 1, n, 2 * n - 1),
        "on_train_batch_end": (2, n),
    }
    yield from (Cut(hook, count) for hook, counts in plain.items() for count in counts)
    yield from (Cut(hook, count, True) for hook, counts in failing.items() for count in counts)


def is_at_step_boundary(setting, cut):
    in_epoch = cut.count % setting.per_epoch
    return in_epoch % setting.accumulate == 0


def drops_validation(setting, cut):
    """Lightning validates after the hook of the last microbatch, but not when restored there."""
    return cut.hook == "on_train_batch_end" and cut.count % setting.per_epoch == 0


@functools.cache
def uninterrupted(setting):
    return train(setting)


CASES = [pytest.param(s, c, id=f"{s}-{c}") for s in SETTINGS for c in cuts(s)]


@pytest.mark.parametrize(("setting", "cut"), CASES)
def test_what_was_left_is_trained(setting, cut, tmp_path):
    before = train(setting, cut, tmp_path / "cut.ckpt")
    after = train(setting, resume=before.checkpoint)
    whole = uninterrupted(setting)
    assert before.ids + after.ids == whole.ids
    if is_at_step_boundary(setting, cut):
        assert after.weight == whole.weight
    dropped = [cut.count] if drops_validation(setting, cut) and setting.validates else []
    assert sorted(before.validated + after.validated + dropped) == whole.validated


def test_the_order_of_each_epoch_is_another():
    ids = uninterrupted(SETTINGS[0]).ids
    n = SETTINGS[0].per_epoch
    epochs = [[i % 100 for i in ids[k * n : (k + 1) * n]] for k in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3


class TestLightningWithPlainDataLoaders:
    """What is Lightning's own doing, and shows without this package's loaders, too."""

    def cut_and_resume(self, cut, path):
        setting = Setting(sized=True, validates=True)
        config = {"dataset": torch.arange(7), "batch_size": 1}
        before = train(setting, cut, path, factory=config)
        after = train(setting, resume=path, factory=config)
        return before, after

    def test_validation_is_dropped_when_saved_at_the_last_microbatch(self, tmp_path):
        before, after = self.cut_and_resume(Cut("on_train_batch_end", 7), tmp_path / "cut.ckpt")
        assert before.ids + after.ids == [*range(7)] * 3
        assert before.validated + after.validated == [14, 21]  # and not at 7

    def test_an_epoch_is_dropped_when_saved_at_its_start(self, tmp_path):
        # With our loaders it is not: see _lightning.leave_finished_epoch.
        before, after = self.cut_and_resume(Cut("on_train_epoch_start", 7), tmp_path / "cut.ckpt")
        assert before.ids + after.ids == [*range(7)] * 2

    def test_microbatches_are_repeated_and_others_lost_in_the_middle(self, tmp_path):
        before, after = self.cut_and_resume(Cut("on_train_batch_end", 3), tmp_path / "cut.ckpt")
        assert before.ids + after.ids == [0, 1, 2, *range(4), *range(7), *range(7)]
