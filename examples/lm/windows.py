"""Rows of the shards as microbatches of token windows: what a DataLoader collates with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lm.corpus import BLOCK_SIZE

WINDOW_SIZE = 128
"""Tokens that the model sees at once."""


def random_windows(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A microbatch of windows, each at a random place of its row.

    Drawn from torch's generator, as augmentation usually is: fkat's loaders seed it for every
    microbatch, so that a resumed run draws the same.
    """
    return _windows(rows, torch.randint(BLOCK_SIZE - WINDOW_SIZE, (len(rows),)).tolist())


def first_windows(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A microbatch of windows, each at the beginning of its row: the same with any loader."""
    return _windows(rows, [0] * len(rows))


def _windows(rows: list[dict[str, Any]], starts: list[int]) -> dict[str, Tensor]:
    """``ids`` (batch,), ``input_ids`` and ``labels`` (batch, WINDOW_SIZE); all int64."""
    texts = [
        list(row["text"][start : start + WINDOW_SIZE + 1])
        for row, start in zip(rows, starts, strict=True)
    ]
    tokens = torch.tensor(texts)
    ids = torch.tensor([row["id"] for row in rows])
    return {"ids": ids, "input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}
