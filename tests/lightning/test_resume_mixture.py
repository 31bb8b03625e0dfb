"""A run over a mixture goes on exactly where it was cut off: the turns, and every loader in it."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.lightning.ours import (
    SETTINGS,
    Cut,
    MixtureModel,
    Open,
    Ours,
    cuts,
    is_at_step_boundary,
    mixture,
    sharded,
    single,
)
from tests.lightning.training import train as train_model

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own


def of_sized(strategy="in turn", **options):
    return mixture(
        strategy,
        a=single(4, named=True, **options),
        b=single(3, 100, named=True, **options),
    )


def of_unsized(strategy="in turn", **options):
    return mixture(
        strategy,
        a=single(4, named=True, stream=True, **options),
        b=single(3, 100, named=True, stream=True, **options),
    )


def of_both(strategy="in turn", **options):
    """And one that is no loader of this package, which is read again after a resume."""
    return mixture(
        strategy,
        a=single(3, named=True, **options),
        b=single(2, 100, named=True, stream=True, **options),
        c=Open(named=True, stream=True)([200, 201]),
    )


def of_sharded(strategy="in turn", **options):
    return mixture(
        strategy,
        a=sharded([2, 0, 2], named=True, **options),
        b=sharded([0, 0, 0, 1, 2], named=True, stream=True, prefetches=0, **options),
    )


MIXTURES = {"sized": of_sized, "unsized": of_unsized, "both": of_both, "sharded": of_sharded}
STRATEGIES = ("in turn", "weighted")


def train(*args, model=None, **options):
    return train_model(*args, model=model or MixtureModel(), **options)


@functools.cache
def uninterrupted(kind, strategy, setting):
    return train(setting, factory=functools.partial(MIXTURES[kind], strategy))


# Two settings with every mixture, both strategies with each.
CASES = [
    pytest.param(kind, STRATEGIES[j], setting, cut, id=f"{kind}-{setting}-{cut}")
    for i, kind in enumerate(MIXTURES)
    for j, setting in enumerate((SETTINGS * 2)[i : i + 2])
    for cut in cuts(setting)
]


@pytest.mark.parametrize(("kind", "strategy", "setting", "cut"), CASES)
def test_what_was_left_is_trained(kind, strategy, setting, cut, tmp_path):
    factory = functools.partial(MIXTURES[kind], strategy)
    before = train(setting, cut, tmp_path / "cut.ckpt", factory=factory)
    after = train(setting, resume=before.checkpoint, factory=factory)
    whole = uninterrupted(kind, strategy, setting)
    assert before.ids + after.ids == whole.ids
    if is_at_step_boundary(setting, cut) and kind != "both":  # noise of others is their own
        assert after.weight == whole.weight


@pytest.mark.parametrize("kind", MIXTURES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_epoch_is_every_sample_once(kind, strategy):
    ids = uninterrupted(kind, strategy, Ours()).ids
    epochs = [sorted(ids[:7]), sorted(ids[7:14]), sorted(ids[14:])]
    assert len(set(epochs[0])) == 7
    assert epochs == [epochs[0]] * 3


@pytest.mark.parametrize("kind", MIXTURES)
@pytest.mark.parametrize("counts", [(3, 5), (6, 7, 8, 14), (1, 2, 3, 4)], ids=str)
def test_resuming_again_and_again(kind, counts, tmp_path):
    factory = functools.partial(MIXTURES[kind], "weighted")
    ids, path = [], None
    for count in counts:
        cut = Cut("on_train_batch_end", count)
        ids += train(Ours(), cut, tmp_path / str(count), path, factory).ids
        path = tmp_path / str(count)
    ids += train(Ours(), resume=path, factory=factory).ids
    assert ids == uninterrupted(kind, "weighted", Ours()).ids


@pytest.mark.parametrize(
    "cut",
    [Cut("on_train_batch_end", 9), Cut("on_before_backward", 4, fails=True)],
    ids=str,
)
@pytest.mark.parametrize("kind", ["sized", "sharded"])
def test_from_producer_processes(kind, cut, tmp_path):
    factory = functools.partial(MIXTURES[kind], multiprocessing=True)
    setting = Ours(validates=True)
    before = train(setting, cut, tmp_path / "cut.ckpt", factory=factory)
    after = train(setting, resume=before.checkpoint, factory=factory)
    whole = uninterrupted(kind, "in turn", setting)
    assert before.ids + after.ids == whole.ids
    assert after.weight == whole.weight


def test_the_checkpoint_says_where_every_loader_is(tmp_path):
    train(Ours(), Cut("on_train_batch_end", 5), tmp_path / "cut.ckpt", factory=of_sharded)
    state = torch.load(tmp_path / "cut.ckpt", weights_only=True)["DataModule"]["train"]
    assert (state["class"], state["epoch"], state["microbatch"]) == ("DictDataLoader", 0, 5)
    counts = {name: child["count"] for name, child in state["dataloaders"].items()}
    assert counts == {"a": 3, "b": 2}
