"""Parquet files: columns, values, what is refused, memory."""

from __future__ import annotations

import datetime
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fkat.data.datasets import IterableParquetDataset, ParquetDataset

BOTH = pytest.mark.parametrize(
    "read", [ParquetDataset, IterableParquetDataset], ids=["by_row", "in_order"]
)


def all_rows(dataset):
    if isinstance(dataset, ParquetDataset):
        return [dataset[i] for i in range(len(dataset))]
    return list(dataset)


@pytest.fixture
def write(tmp_path):
    def write(columns, **options):
        path = tmp_path / "file.parquet"
        pq.write_table(pa.table(columns), path, **options)
        return path

    return write


@BOTH
def test_columns_come_in_the_order_they_are_asked_for(read, write):
    path = write({"a": [1, 2], "b": ["x", "y"], "c": [True, None]})
    rows = all_rows(read(path, columns=["c", "a"]))
    assert [list(row.items()) for row in rows] == [
        [("c", True), ("a", 1)],
        [("c", None), ("a", 2)],
    ]


@BOTH
def test_a_column_whose_name_begins_like_another_is_not_taken_for_it(read, write):
    path = write({"a": [1], "a.b": [2], "a.c": [3]})
    assert all_rows(read(path, columns=["a"])) == [{"a": 1}]
    assert all_rows(read(path, columns=["a.c", "a"])) == [{"a.c": 3, "a": 1}]


@BOTH
def test_an_unknown_column_is_named_with_those_there_are(read, write):
    path = write({"a": [1], "b": [2]})
    with pytest.raises(ValueError, match=rf"{path}: it has no column 'x', only 'a', 'b'"):
        all_rows(read(path, columns=["a", "x"]))


@BOTH
def test_ints_stay_ints_and_nulls_are_none(read, write):
    path = write({"i": [1, None, 3], "f": [0.5, None, 1.0], "s": ["x", None, ""]})
    rows = all_rows(read(path))
    assert rows == [
        {"i": 1, "f": 0.5, "s": "x"},
        {"i": None, "f": None, "s": None},
        {"i": 3, "f": 1.0, "s": ""},
    ]
    assert [type(row["i"]) for row in rows] == [int, type(None), int]


@BOTH
@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_nan_becomes_none_unless_told_otherwise(read, write, kind):
    path = write({"f": pa.array([1.0, math.nan, None], kind)})
    assert all_rows(read(path)) == [{"f": 1.0}, {"f": None}, {"f": None}]
    kept = [row["f"] for row in all_rows(read(path, replace_nan=False))]
    assert [kept[0], math.isnan(kept[1]), kept[2]] == [1.0, True, None]


@BOTH
def test_nan_inside_lists_stays(read, write):
    (row,) = all_rows(read(write({"f": [[1.0, math.nan]]})))
    assert [row["f"][0], math.isnan(row["f"][1])] == [1.0, True]


@BOTH
@pytest.mark.parametrize("use_threads", [True, False])
def test_values_have_pythons_types(read, write, use_threads):
    row = {
        "bytes": b"\x00\xff",
        "date": datetime.date(2026, 11, 22),
        "time": datetime.datetime(2026, 11, 22, 12, 30, 1, 5),
        "nested": [{"a": [1, 2]}, None],
        "choice": "red",
    }
    columns = {name: [value, None] for name, value in row.items()}
    columns["choice"] = pa.array(["red", None]).dictionary_encode()
    path = write(columns)
    expected = [row, dict.fromkeys(row)]
    assert all_rows(read(path, use_threads=use_threads)) == expected


@BOTH
def test_files_may_have_other_row_groups_and_columns_in_another_order(read, tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    pq.write_table(pa.table({"a": [1, 2, 3], "b": [4, 5, 6]}), first, row_group_size=2)
    pq.write_table(pa.table({"b": [8], "a": [7]}), second)
    rows = all_rows(read([first, second], columns=["a", "b"]))
    assert [tuple(row.items()) for row in rows] == [
        (("a", a), ("b", b)) for a, b in ((1, 4), (2, 5), (3, 6), (7, 8))
    ]


@BOTH
@pytest.mark.parametrize(
    ("arguments", "error", "because"),
    [
        ({"columns": "a"}, TypeError, "columns must be a list of names, got 'a'"),
        ({"columns": [1]}, TypeError, "columns must be a list of names"),
        ({"columns": []}, ValueError, "columns must name at least one"),
        ({"columns": ["a", "a"]}, ValueError, "each once"),
        ({"use_threads": 1}, TypeError, "use_threads must be a bool"),
        ({"replace_nan": None}, TypeError, "replace_nan must be a bool"),
        ({"pandas_metadata": True}, TypeError, "unexpected keyword argument 'pandas_metadata'"),
    ],
)
def test_wrong_arguments_fail_at_once_by_name(read, arguments, error, because):
    with pytest.raises(error, match=because):
        read("nowhere.parquet", **arguments)


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_a_chunk_has_at_least_a_row(chunk_size):
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        IterableParquetDataset("nowhere.parquet", chunk_size=chunk_size)


_MEASURE = """
import json, re, sys
from fkat.data.datasets import IterableParquetDataset
def peak_nbytes():
    # Not getrusage(): what that says begins at the peak of the process that started this one.
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
small, huge = (
    IterableParquetDataset(path, chunk_size=1000, use_threads=False) for path in sys.argv[1:]
)
list(small)  # what is imported and allocated for good
before = peak_nbytes()
count = sum(1 for _ in huge)
print(json.dumps([count, peak_nbytes() - before]))
"""


def test_one_huge_row_group_is_streamed_in_bounded_memory(tmp_path, start_trainer):
    path = tmp_path / "huge.parquet"
    text = pa.array([f"{i:0100d}" for i in range(100)]).take(
        pa.array([i % 100 for i in range(2_000_000)], pa.int32())
    )
    # 200 MB in the file as in memory, in one row group.
    options = {"use_dictionary": False, "compression": "none"}
    pq.write_table(pa.table({"text": text}), path, row_group_size=2_000_000, **options)
    assert path.stat().st_size > 200_000_000
    assert pq.ParquetFile(path).num_row_groups == 1
    small = tmp_path / "small.parquet"
    pq.write_table(pa.table({"text": text[:10]}), small)
    code, output, errors = start_trainer(_MEASURE, str(small), str(path)).finish()
    assert code == 0, errors
    count, growth_nbytes = json.loads(output)
    assert count == 2_000_000
    assert growth_nbytes < 60 << 20


_WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
from fkat.data import datasets
print(list(datasets.MapDataset([1], str)), sorted(datasets.__all__)[0])
for name in ("Parquet", "IterableParquet", "Json", "IterableJson"):
    try:
        getattr(datasets, name + "Dataset")("file")
    except ImportError as error:
        print(error)
"""


def test_only_making_a_dataset_of_files_needs_pyarrow(start_trainer):
    code, output, errors = start_trainer(_WITHOUT_PYARROW).finish()
    assert code == 0, errors
    first, *others = output.splitlines()
    assert first == "['1'] DictDataset"
    names = [line.split(" needs pyarrow: pip install fkat-data[parquet]")[0] for line in others]
    kinds = ("Parquet", "IterableParquet", "Json", "IterableJson")
    assert names == [f"{kind}Dataset" for kind in kinds]


def test_importing_datasets_imports_neither_pyarrow_nor_fsspec(start_trainer):
    script = "import sys, fkat.data.datasets; print({'pyarrow', 'fsspec'} & {*sys.modules})"
    assert start_trainer(script).finish()[:2] == (0, "set()\n")


_LOCAL = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("fsspec", "pandas", "boto3", "s3fs", "awswrangler"):
            raise ModuleNotFoundError(f"there is no {name}", name=name)
sys.meta_path.insert(0, Absent())
from fkat.data.datasets import ParquetDataset
print(ParquetDataset(sys.argv[1])[0])
"""


def test_reading_local_files_needs_pyarrow_alone(write, start_trainer):
    path = write({"a": [1]})
    assert start_trainer(_LOCAL, str(path)).finish()[:2] == (0, "{'a': 1}\n")
