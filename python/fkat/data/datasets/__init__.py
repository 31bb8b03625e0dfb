"""Datasets: Parquet and JSON lines, local or remote, by row or as a stream; and wrappers.

Importing this needs no pyarrow; making a Parquet or JSON dataset does (the extra ``parquet``).
"""

from fkat.data.datasets._json import IterableJsonDataset, JsonDataset
from fkat.data.datasets._parquet import IterableParquetDataset, ParquetDataset
from fkat.data.datasets._wrappers import (
    DictDataset,
    IterableMapDataset,
    MapDataset,
    SizedDataset,
)

__all__ = [
    "DictDataset",
    "IterableJsonDataset",
    "IterableMapDataset",
    "IterableParquetDataset",
    "JsonDataset",
    "MapDataset",
    "ParquetDataset",
    "SizedDataset",
]
