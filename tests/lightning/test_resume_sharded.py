"""A run over shards goes on exactly where it was cut off, with every hook and count."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.lightning.ours import (
    SETTINGS,
    Cut,
    Ours,
    cuts,
    is_at_step_boundary,
    sharded,
)
from tests.lightning.training import train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

LENGTHS = [3, 0, 1, 3]
FACTORIES = {
    "map": functools.partial(sharded, LENGTHS),
    "map, one at a time": functools.partial(sharded, LENGTHS, prefetches=0),
    "stream": functools.partial(sharded, LENGTHS, stream=True),
}


@functools.cache
def uninterrupted(kind, setting):
    return train(setting, factory=FACTORIES[kind])


CASES = [
    pytest.param(kind, setting, cut, id=f"{kind}-{setting}-{cut}")
    for kind, settings in zip(FACTORIES, [SETTINGS[:3], SETTINGS[:1], SETTINGS[1:3]], strict=True)
    for setting in settings
    for cut in cuts(setting)
]


@pytest.mark.parametrize(("kind", "setting", "cut"), CASES)
def test_what_was_left_is_trained(kind, setting, cut, tmp_path):
    before = train(setting, cut, tmp_path / "cut.ckpt", factory=FACTORIES[kind])
    after = train(setting, resume=before.checkpoint, factory=FACTORIES[kind])
    whole = uninterrupted(kind, setting)
    assert before.ids + after.ids == whole.ids
    if is_at_step_boundary(setting, cut):
        assert after.weight == whole.weight


@pytest.mark.parametrize("kind", FACTORIES)
def test_every_epoch_is_every_sample_once_in_an_order_of_its_own(kind):
    ids = uninterrupted(kind, SETTINGS[1]).ids
    epochs = [ids[:7], ids[7:14], ids[14:]]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 200, 300, 301, 302]] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.parametrize("counts", [(3, 5), (3, 7), (6, 7, 8, 14), (1, 2, 3, 4)], ids=str)
def test_resuming_again_and_again(kind, counts, tmp_path):
    ids, path = [], None
    for count in counts:
        cut = Cut("on_train_batch_end", count)
        ids += train(Ours(), cut, tmp_path / str(count), path, FACTORIES[kind]).ids
        path = tmp_path / str(count)
    last = train(Ours(), resume=path, factory=FACTORIES[kind])
    whole = uninterrupted(kind, SETTINGS[0])
    assert ids + last.ids == whole.ids
    assert last.weight == whole.weight


@pytest.mark.parametrize(
    "cut",
    [
        Cut("on_train_batch_end", 2),
        Cut("on_validation_end", 7),
        Cut("on_before_backward", 11, fails=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True], ids=["map", "stream"])
def test_from_producer_processes(stream, cut, tmp_path):
    factory = functools.partial(sharded, LENGTHS, stream=stream, multiprocessing=True)
    setting = Ours(validates=True)
    before = train(setting, cut, tmp_path / "cut.ckpt", factory=factory)
    after = train(setting, resume=before.checkpoint, factory=factory)
    whole = train(setting, factory=functools.partial(factory, multiprocessing=False))
    assert before.ids + after.ids == whole.ids
    assert after.weight == whole.weight


def test_the_checkpoint_says_which_shards_are_finished(tmp_path):
    train(Ours(), Cut("on_train_batch_end", 6), tmp_path / "cut.ckpt", factory=FACTORIES["map"])
    checkpoint = torch.load(tmp_path / "cut.ckpt", weights_only=True)
    state = checkpoint["DataModule"]["train"]
    order = uninterrupted("map", SETTINGS[0]).ids[:6]
    assert (state["class"], state["epoch"], state["microbatch"]) == ("ShardedDataLoader", 0, 6)
    assert len({i // 100 for i in order}) > 1
    assert [int(index) for index in state["all_rank_indices"]] != [-1]
