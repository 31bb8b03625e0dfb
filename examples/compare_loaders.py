"""How long training waits for data: fed by ShmDataLoader, then by a plain DataLoader.

``python examples/compare_loaders.py``: half a minute on two CPU cores, no GPU, no downloads.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
from lm.corpus import build_shards
from lm.model import ByteTransformer
from lm.progress import progress_bar
from lm.quiet import quiet_lightning
from lm.report import Run, print_table
from lm.timing import WaitTimer
from lm.windows import WINDOW_SIZE, first_windows
from rich.console import Console
from torch.utils.data import DataLoader

from fkat.data import ShmDataLoader
from fkat.data.datasets import ParquetDataset

MICROBATCH_SIZE = 8
MICROBATCHES_PER_STEP = 2
NUM_SHARDS, ROWS_PER_SHARD = 8, 1024


def make_loader(
    shards: list[Path], seed: int, num_workers: int = 0, prefetch_factor: int | None = None
) -> DataLoader[dict[str, Any]]:
    """An ordinary DataLoader over the rows of all shards; both runs use it."""
    return DataLoader(
        ParquetDataset(list(shards)),
        batch_size=MICROBATCH_SIZE,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
        drop_last=True,
        collate_fn=first_windows,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        persistent_workers=num_workers > 0,
    )


def train(title: str, loader: Iterable[Any], options: argparse.Namespace) -> Run:
    """The same model from the same start for the same number of steps; only the loader differs."""
    L.seed_everything(options.seed, verbose=False)
    model = ByteTransformer(WINDOW_SIZE)
    timer = WaitTimer()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=options.steps * MICROBATCHES_PER_STEP,
        accumulate_grad_batches=MICROBATCHES_PER_STEP,
        callbacks=[progress_bar(), timer],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
    stats = loader.stats() if isinstance(loader, ShmDataLoader) else None
    return Run(title, timer, model.losses, stats.stall_s if stats is not None else None)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="training steps with each loader")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--prefetch", type=int, default=4, help="microbatches prepared ahead")
    options = parser.parse_args()
    if options.steps < 50:
        parser.error("--steps: at least 50, the first are not timed")
    return options


def main() -> None:
    """Build the shards, train twice, compare."""
    options = parse()
    quiet_lightning()
    # Two processes work at once, and a demo machine may have two cores: with one thread the
    # trainer leaves a core to the producer, instead of taking both and waiting for its data.
    torch.set_num_threads(1)
    console = Console()
    console.print(
        f"Trains {options.steps} steps through fkat's ShmDataLoader, then as many through a plain\n"
        "DataLoader, with the same dataset, seed, microbatches and prefetch depth.",
        highlight=False,
    )
    with tempfile.TemporaryDirectory(prefix="fkat-demo-") as folder:
        shards = build_shards(Path(folder), NUM_SHARDS, ROWS_PER_SHARD)
        factory = partial(make_loader, shards, options.seed)
        options.steps = min(options.steps, len(factory()) // MICROBATCHES_PER_STEP)

        console.print("\nfkat ShmDataLoader")
        shm = ShmDataLoader(options.seed, factory, num_microbatch_prefetches=options.prefetch)
        ours = train("fkat ShmDataLoader", shm, options)
        shm.teardown()

        console.print("\ntorch DataLoader, num_workers=1")
        plain = factory(num_workers=1, prefetch_factor=options.prefetch)
        theirs = train("torch DataLoader", plain, options)
    print_table([ours, theirs], MICROBATCHES_PER_STEP, console)


if __name__ == "__main__":
    main()
