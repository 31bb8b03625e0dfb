"""Train a small language model from Parquet shards, so that it can be stopped at any time.

``python examples/train_lm.py SHARDS CHECKPOINTS`` trains; with ``--resume CHECKPOINT`` it goes on
with exactly the microbatches that were not trained on when the checkpoint was saved. Prints a line
of JSON for each finished microbatch. `kill_and_resume.py` runs it, kills it, and compares.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (the name that Lightning's own documentation uses)
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lm.corpus import build_shards
from lm.model import ByteTransformer
from lm.quiet import quiet_lightning
from lm.windows import WINDOW_SIZE, random_windows
from torch.utils.data import DataLoader, RandomSampler

from fkat.data.data_module import DataModule
from fkat.data.datasets import ParquetDataset
from fkat.data.sharded import (
    DataLoaderFactory,
    FsShardSampler,
    ShardedDataLoader,
    ShuffledShardSampler,
)


def make_loader(folder: Path, seed: int) -> ShardedDataLoader[dict[str, torch.Tensor]]:
    """Shards in a new order every epoch, the rows of each shuffled, windows cut at random."""
    return ShardedDataLoader(
        seed,
        ShuffledShardSampler(FsShardSampler(folder, glob="*.parquet"), seed=seed),
        # Called with the path of a shard, in the process that reads it.
        DataLoaderFactory(
            dataset_generator=partial(ParquetDataset, columns=["id", "text"]),
            sampler_generator=RandomSampler,
            dataloader_generator=partial(DataLoader, collate_fn=random_windows),
            batch_size=16,
        ),
        num_shard_prefetches=2,  # two shards are read at once, each in a process of its own
    )


class PrintFinished(L.Callback):
    """A line of JSON for each microbatch, when the trainer has finished it."""

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Which rows it was, and what the model made of it."""
        finished = {
            "epoch": trainer.current_epoch,
            "ids": batch["ids"].tolist(),
            "loss": outputs["loss"].item(),
        }
        print(json.dumps(finished), flush=True)


def train(options: argparse.Namespace) -> None:
    """Nothing here is about resuming but the checkpoints and ``ckpt_path``."""
    L.seed_everything(options.seed, verbose=False)
    data = DataModule({"train": partial(make_loader, options.shards, options.seed)})
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=options.epochs,
        callbacks=[
            PrintFinished(),
            ModelCheckpoint(
                options.checkpoints, filename="{step}", every_n_train_steps=options.save_every
            ),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ByteTransformer(WINDOW_SIZE), data, ckpt_path=options.resume)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path, help="folder of Parquet files; made if missing")
    parser.add_argument("checkpoints", type=Path, help="folder to save checkpoints in")
    parser.add_argument("--resume", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=20, metavar="STEPS")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def main() -> None:
    """Make the shards if need be, and train."""
    options = parse()
    quiet_lightning()
    torch.set_num_threads(1)  # leaves a core to the producers, where there are but two
    if not options.shards.exists():
        build_shards(options.shards, num_shards=12, rows_per_shard=64)
    train(options)


if __name__ == "__main__":
    main()
