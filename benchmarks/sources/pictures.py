"""Picture files to decode, cut from the photographs that come with scikit-image.

The photographs are read as files: scikit-image itself is not imported.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from benchmarks.harness.question import WrongPayloadError

PHOTOGRAPHS = (
    *("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    *("retina.jpg", "hubble_deep_field.jpg"),
)
CROP_SIZE = (320, 256)
"""Width and height of a picture file."""
IMAGE_SIZE = (224, 224)
"""What it is resized to."""
NUM_FILES = 96
BATCH_SIZE = 32
BATCH_NBYTES = BATCH_SIZE * 3 * 224 * 224
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "jpeg": {"quality": 90},
    "png": {"compress_level": 4},
}


def _photographs() -> list[Any]:
    from PIL import Image

    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the photographs come with scikit-image", name="skimage")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]


def write_pictures(folder: Path, kind: str) -> None:
    """Write ``NUM_FILES`` distinct pictures of 320x256, the same every time.

    Args:
        folder: Where to; it is empty.
        kind: ``"jpeg"`` (quality 90) or ``"png"``.

    Raises:
        ModuleNotFoundError: Pillow, or the package with the photographs, is not installed.
    """
    rng = np.random.default_rng(2024)
    photographs = _photographs()
    width, height = CROP_SIZE
    for number in range(NUM_FILES):
        photograph = photographs[number % len(photographs)]
        left = int(rng.integers(photograph.width - width + 1))
        top = int(rng.integers(photograph.height - height + 1))
        crop = photograph.crop((left, top, left + width, top + height))
        crop.save(folder / f"{number:04}.{kind}", **SAVE_OPTIONS[kind])


def decode(data: bytes) -> torch.Tensor:
    """A picture as training wants it: uint8, (3, 224, 224)."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB").resize(IMAGE_SIZE, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


class PictureFiles(Dataset[torch.Tensor]):
    """Item ``i`` is file ``i`` modulo their number, read and decoded."""

    def __init__(self, paths: Sequence[Path], num_items: int) -> None:
        self.paths = paths
        self.num_items = num_items

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> torch.Tensor:
        return decode(self.paths[index % len(self.paths)].read_bytes())


class PictureCheck:
    """Compares batches with the same files, decoded beforehand and in this process."""

    def __init__(self, paths: Sequence[Path]) -> None:
        pictures = PictureFiles(paths, len(paths))
        self._batches = [
            default_collate([pictures[i] for i in range(first, first + BATCH_SIZE)])
            for first in range(0, len(paths), BATCH_SIZE)
        ]

    def _batch(self, index: int, item: Any) -> tuple[torch.Tensor, torch.Tensor]:
        want = self._batches[index % len(self._batches)]
        got = torch.as_tensor(item)  # one loader gives arrays
        if got.dtype != want.dtype or got.shape != want.shape:
            raise WrongPayloadError(f"batch {index}: {got.dtype} {tuple(got.shape)}")
        return got, want

    def compare_all(self, index: int, item: Any) -> None:
        """Compare every byte of batch ``index``.

        Raises:
            WrongPayloadError: Something differs.
        """
        got, want = self._batch(index, item)
        if not torch.equal(got, want):
            raise WrongPayloadError(f"batch {index} differs from the pictures it is made of")

    def compare_one(self, index: int, item: Any) -> None:
        """Compare one line of one picture of batch ``index``, another each time.

        Raises:
            WrongPayloadError: It differs.
        """
        got, want = self._batch(index, item)
        place = (index * 7 % BATCH_SIZE, index % 3, index * 101 % 224)
        if not torch.equal(got[place], want[place]):
            raise WrongPayloadError(f"batch {index}: picture {place[0]} differs")
