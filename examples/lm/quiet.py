"""Lightning without the advice that does not apply to a demo."""

from __future__ import annotations

import logging
import warnings


def quiet_lightning() -> None:
    """Drop it: one worker, no GPU, and a second run in the same folder are what is shown."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
