"""One rank of a group: runs many cases, since starting takes long, and writes down what came."""

from __future__ import annotations

import json
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from lightning.pytorch.strategies import DDPStrategy

from tests.lightning.loaders import Numbers
from tests.lightning.training import Cut, Setting, train


class Merging(Numbers):
    """Whose state says what each rank holds; whose own part it takes back."""

    def snapshot(self, next_epoch=False):
        memory = super().snapshot(next_epoch)
        return lambda: {**memory(), "ranks": {str(self.rank): f"part of {self.rank}"}}

    def load_state_dict(self, state, strict=True):
        super().load_state_dict({key: state[key] for key in state if key != "ranks"}, strict)

    @staticmethod
    def merge_state_dicts(states):
        return {**states[0], "ranks": {k: v for state in states for k, v in state["ranks"].items()}}


def cuts(n):
    yield Cut("on_train_batch_end", 3)
    yield Cut("on_train_batch_end", n)
    yield Cut("on_train_batch_start", n + 2)
    yield Cut("on_train_epoch_end", n)
    yield Cut("on_train_epoch_start", n)
    yield Cut("on_before_backward", 4, fails=True)
    yield Cut("on_train_batch_end", n, fails=True)


def settings():
    for sized in (True, False):
        yield Setting(sized)
        yield Setting(sized, validates=True, accumulate=2)
        yield Setting(sized, by_steps=True, limit=5)


def run(rank, folder):
    strategy = lambda: DDPStrategy(  # noqa: E731
        process_group_backend="gloo", timeout=timedelta(seconds=30)
    )
    results = {}
    for setting in settings():
        for kind in (
            (Numbers, Merging) if setting in (Setting(True), Setting(False)) else (Numbers,)
        ):
            factory = lambda kind=kind, s=setting: new(kind, s, rank)  # noqa: E731
            options = {"factory": factory, "devices": 2}
            whole = train(setting, strategy=strategy(), **options)
            for cut in cuts(setting.per_epoch):
                name = f"{setting}-{cut}-{kind.__name__}"
                path = folder / f"{name}.ckpt"
                before = train(setting, cut, path, strategy=strategy(), **options)
                torch.distributed.barrier()
                after = train(setting, resume=path, strategy=strategy(), **options)
                checkpoint = torch.load(path, weights_only=True)
                results[name] = {
                    "resumed": before.ids + after.ids,
                    "whole": whole.ids,
                    "ranks": sorted(checkpoint["DataModule"]["train"].get("ranks", {})),
                    "fails": cut.fails,
                }
                torch.distributed.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


def new(kind, setting, rank):
    loader = kind(7, sized=False, rank=rank)
    if setting.sized:
        loader.__class__ = type(
            "Sized" + kind.__name__, (kind,), {"__len__": lambda self: self.count}
        )
    return loader


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    run(int(sys.argv[1]), Path(sys.argv[2]))
