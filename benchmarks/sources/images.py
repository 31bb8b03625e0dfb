"""Images that lie in memory: what is left to do is to collate them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from benchmarks.harness.question import WrongPayloadError

IMAGE_SHAPE = (3, 224, 224)
BATCH_SIZE = 256
NUM_BATCHES = 3
"""Distinct batches, one after the other, then again: 116 MB, which no cache holds."""
BATCH_NBYTES = BATCH_SIZE * 3 * 224 * 224


@cache
def all_images() -> torch.Tensor:
    """The images, batch by batch: uint8, (batch, image, 3, 224, 224), the same in each process."""
    shape = (NUM_BATCHES, BATCH_SIZE, *IMAGE_SHAPE)
    flat = np.frombuffer(np.random.default_rng(2024).bytes(int(np.prod(shape))), np.uint8)
    return torch.from_numpy(flat.reshape(shape).copy())


class ImagesInMemory(Dataset[torch.Tensor]):
    """Item ``i`` is image ``i % 768``, uint8 (3, 224, 224); nothing is made to return it.

    The list is made here, not at the first item: some loaders ask for items in many threads.
    """

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self._images: list[torch.Tensor] = list(all_images().flatten(0, 1))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.num_items,)

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._images[index % len(self._images)]


def _batch(index: int, item: Any) -> tuple[torch.Tensor, torch.Tensor]:
    want = all_images()[index % NUM_BATCHES]
    got = torch.as_tensor(item)  # one loader gives arrays
    if got.dtype != want.dtype or got.shape != want.shape:
        raise WrongPayloadError(
            f"batch {index}: {got.dtype} {tuple(got.shape)}, not {want.dtype} {tuple(want.shape)}"
        )
    return got, want


def compare_all(index: int, item: Any) -> None:
    """Compare every byte of batch ``index``.

    Raises:
        WrongPayloadError: Something differs.
    """
    got, want = _batch(index, item)
    if not torch.equal(got, want):
        raise WrongPayloadError(f"batch {index} differs from the images it is made of")


def compare_one(index: int, item: Any) -> None:
    """Compare one line of one image of batch ``index``, another each time.

    Raises:
        WrongPayloadError: It differs.
    """
    got, want = _batch(index, item)
    place = (index * 37 % BATCH_SIZE, index % 3, index * 101 % 224)
    if not torch.equal(got[place], want[place]):
        raise WrongPayloadError(f"batch {index}: image {place[0]} differs")
