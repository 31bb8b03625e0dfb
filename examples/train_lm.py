"""Train a small language model on real text, fed by fkat.data, then by a plain DataLoader.

``python examples/train_lm.py``: about a minute on two CPU cores, no GPU, no downloads.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
from lm.corpus import build_shards
from lm.dataset import make_loader
from lm.model import ByteTransformer
from lm.progress import progress_bar
from lm.report import Run, print_table
from lm.timing import WaitTimer
from rich.console import Console

from fkat.data import ShmDataLoader

MICROBATCH_SIZE = 8
MICROBATCHES_PER_STEP = 2
WINDOW_SIZE = 128
CORPUS_NBYTES = 8 << 20


def quiet_lightning() -> None:
    """Drop the advice that does not apply: one worker and no GPU are what the demo is about."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


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
    parser.add_argument("--steps", type=int, default=250, help="training steps with each loader")
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
        "Trains a byte-level transformer on the sources of Python's standard library:\n"
        f"{options.steps} steps through fkat's ShmDataLoader, then {options.steps} through a plain"
        " DataLoader,\nwith the same dataset, seed, microbatches and prefetch depth."
        "\nTakes about a minute.\n",
        highlight=False,
    )
    with tempfile.TemporaryDirectory(prefix="fkat-demo-") as folder:
        start_s = time.perf_counter()
        shards = build_shards(Path(folder), CORPUS_NBYTES)
        nbytes = sum(path.stat().st_size for path in shards)
        took_s = time.perf_counter() - start_s
        console.print(
            f"{len(shards)} Parquet shards, {nbytes / 1e6:.1f} MB, made in {took_s:.1f} s",
            highlight=False,
        )
        settings = {"seed": options.seed, "batch_size": MICROBATCH_SIZE, "window_size": WINDOW_SIZE}
        factory = partial(make_loader, shards, **settings)
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
