"""The same rows as Parquet and as JSON lines, for tests of datasets."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.json as pj
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from fkat.data import datasets


def make_rows(count, first=0):
    """Rows that tell where they are from: a number, a text, nested values and nulls."""
    return [
        {
            "number": i,
            "ratio": None if i % 5 == 0 else i / 4,
            "text": f"row {i}" * (i % 3),
            "tags": [str(i)] * (i % 4),
            "point": {"x": i, "y": None},
        }
        for i in range(first, first + count)
    ]


_POINT = pa.struct([("x", pa.int64()), ("y", pa.float64())])
SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("ratio", pa.float64()),
        ("text", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("point", _POINT),
    ]
)


class Parquet:
    """Files of many small row groups."""

    name = "file.parquet"
    by_row = staticmethod(datasets.ParquetDataset)
    stream = staticmethod(datasets.IterableParquetDataset)
    options: dict = {}  # noqa: RUF012

    @staticmethod
    def write(path, rows, row_group_size=7):
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=row_group_size)
        return str(path)


class Json:
    """Files read in many small blocks."""

    name = "file.jsonl"
    options: dict = {"read_options": pj.ReadOptions(block_size=500)}  # noqa: RUF012

    @classmethod
    def by_row(cls, uri, **options):
        return datasets.JsonDataset(uri, **{**cls.options, **options})

    @classmethod
    def stream(cls, uri, **options):
        return datasets.IterableJsonDataset(uri, **{**cls.options, **options})

    @staticmethod
    def write(path, rows, row_group_size=7):
        del row_group_size  # blocks have the size of options
        Path(path).write_bytes(json_lines(rows))
        return str(path)


FORMATS = [Parquet, Json]


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class CountedFile:
    """An open file that adds up the bytes read from it."""

    def __init__(self, file, count):
        self._file = file
        self._count = count

    def read(self, nbytes=-1):
        data = self._file.read(nbytes)
        self._count(len(data))
        return data

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __del__(self):
        self._file.close()


class CountingHandler(pafs.FSSpecHandler):
    """The local filesystem, for pyarrow, with a count of what is opened and read."""

    def __init__(self):
        super().__init__(LocalFileSystem())
        self.opened = []
        self.num_bytes = 0

    def open_input_file(self, path):
        self.opened.append(Path(path).name)
        return pa.PythonFile(CountedFile(Path(path).open("rb"), self._count), mode="r")

    def _count(self, nbytes):
        self.num_bytes += nbytes

    @property
    def filesystem(self):
        return pafs.PyFileSystem(self)
