"""Lightning's own progress bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L  # noqa: N812
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

MICROBATCHES_PER_LINE = 100


class LineProgress(ProgressBar):
    """A line every hundred microbatches: for output that nobody redraws."""

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Print where training stands."""
        if (index + 1) % MICROBATCHES_PER_LINE == 0:
            loss = float(trainer.progress_bar_metrics["loss"])
            print(
                f"  microbatch {index + 1} of {self.total_train_batches}, loss {loss:.3f}",
                flush=True,
            )


def progress_bar() -> ProgressBar:
    """The bar that suits where stdout goes."""
    return RichProgressBar(leave=True) if sys.stdout.isatty() else LineProgress()
