"""Microbatches large enough to be seen in the memory of the machine."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset


class Blobs(Dataset):
    """Of 16 MiB each, filled with their number."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((16 << 20,), index, dtype=torch.uint8)


def blobs() -> DataLoader:
    return DataLoader(Blobs(), batch_size=None)
