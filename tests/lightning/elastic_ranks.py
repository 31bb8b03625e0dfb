"""One rank of two: resumes what both have saved, and what one that was alone has saved."""

from __future__ import annotations

import json
import sys
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.strategies import DDPStrategy

from tests.lightning.ours import MixtureModel, Ours, dealt_shards, mixture, single
from tests.lightning.training import Cut, Model, train

# The first four are rank 0's, the others rank 1's.
UNEVEN = [3, 3, 3, 3, 1, 5, 2, 4]
# Two ranks have 9 each; and 7 each of what one rank leaves after 4.
ELASTIC = [2, 4, 3, 2, 4, 3]


def shards_of_both(size, rank):
    return mixture(
        "weighted",
        a=dealt_shards([3, 1, 2, 1, 4, 1], size, rank, named=True),
        b=dealt_shards([2, 4, 5, 1], size, rank, named=True, prefetches=0),
    )


def of_both(size, rank):
    return mixture(
        a=dealt_shards(ELASTIC, size, rank, named=True),
        b=single(18, 1000, named=True, dp_size=size, dp_rank=rank),
    )


def of_both_sized(size, rank):
    return mixture(
        a=single(8, named=True, dp_size=size, dp_rank=rank),
        b=single(10, 1000, named=True, dp_size=size, dp_rank=rank),
    )


SAME = {
    "sharded": (partial(dealt_shards, UNEVEN), Ours(count=12)),
    "mixture": (shards_of_both, Ours(count=12, validates=True, accumulate=2)),
}
OTHER = {
    "sharded": partial(dealt_shards, ELASTIC),
    "dealt": lambda size, rank: single(18, dp_size=size, dp_rank=rank),
    "mixture": of_both,
    "sized-mixture": of_both_sized,
}
# Of each rank when there are two.
COUNTS = {"sharded": 9, "dealt": 9, "mixture": 18, "sized-mixture": 9}
# A mixture is in turn: after 8 it has had 4 of each loader.
ALONE = {"sharded": 4, "dealt": 4, "mixture": 8, "sized-mixture": 8}


def same_cuts(n):
    yield from (Cut("on_train_batch_end", count) for count in (1, 4, n, n + 2))
    yield Cut("on_train_batch_start", 5)
    yield Cut("on_train_epoch_end", n)
    yield Cut("on_train_epoch_start", n)
    yield from (Cut("on_before_backward", count, fails=True) for count in (2, 7, n + 5))
    yield Cut("on_train_batch_end", n, fails=True)


def other_cuts(n):
    yield from (Cut("on_train_batch_end", count) for count in (1, 4, n + 3))
    yield Cut("on_train_epoch_end", n)
    yield Cut("on_before_backward", 5, fails=True)


def fit(kind, setting, *args, factory, **options):
    """`train` with the model that the loader's microbatches are for."""
    model = MixtureModel() if "mixture" in kind else Model()
    return train(setting, *args, factory=factory, model=model, **options)


def fit_as_rank(kind, setting, *args, factory, **options):
    group = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=30))
    run = fit(kind, setting, *args, factory=factory, strategy=group, devices=2, **options)
    torch.distributed.barrier()
    return run.ids


def resumed_by_two(rank, folder):
    for kind, (new_loader, setting) in SAME.items():
        factory = partial(new_loader, 2, rank)
        whole = fit_as_rank(kind, setting, factory=factory)
        for cut in same_cuts(setting.count):
            path = folder / f"{kind}-{cut}.ckpt"
            before = fit_as_rank(kind, setting, cut, path, factory=factory)
            after = fit_as_rank(kind, setting, resume=path, factory=factory)
            yield path.stem, {"resumed": before + after, "whole": whole}


def saved_by_two(rank, folder):
    for kind, new_loader in OTHER.items():
        setting = Ours(count=COUNTS[kind])
        for cut in other_cuts(COUNTS[kind]):
            path = folder / f"two-{kind}-{cut}.ckpt"
            yield (
                path.stem,
                fit_as_rank(kind, setting, cut, path, factory=partial(new_loader, 2, rank)),
            )


def saved_by_one(rank, folder):
    for kind, new_loader in OTHER.items():
        setting, factory = Ours(count=COUNTS[kind]), partial(new_loader, 2, rank)
        path = folder / f"one-{kind}.ckpt"
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            after = fit_as_rank(kind, setting, resume=path, factory=factory)
        yield (
            path.stem,
            {
                "after": after,
                "whole": fit_as_rank(kind, setting, factory=factory),
                "warnings": [str(w.message) for w in seen if "processes" in str(w.message)],
            },
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    parts = {
        part.__name__: dict(part(rank, folder))
        for part in (resumed_by_two, saved_by_two, saved_by_one)
    }
    (folder / f"{rank}.json").write_text(json.dumps(parts))
    torch.distributed.destroy_process_group()
