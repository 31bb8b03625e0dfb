"""JSON lines: where lines begin and end, values, schemas, what is refused, memory."""

from __future__ import annotations

import json
import math
import pickle

import pyarrow as pa
import pyarrow.json as pj
import pytest

from fkat.data.datasets import IterableJsonDataset, JsonDataset

BOTH = pytest.mark.parametrize("read", [JsonDataset, IterableJsonDataset], ids=["row", "order"])
SCHEMA = pa.schema([("i", pa.int64()), ("f", pa.float64())])


def all_rows(dataset):
    if isinstance(dataset, JsonDataset):
        return [dataset[i] for i in range(len(dataset))]
    return list(dataset)


def blocks_of(nbytes):
    return pj.ReadOptions(block_size=nbytes)


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "file.jsonl"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@BOTH
@pytest.mark.parametrize("block_size", [*range(1, 25), 1 << 20])
def test_each_line_is_a_row_wherever_blocks_begin(read, write, block_size):
    path = write('{"a": 1}\n{"a": 22}\n\n  \r\n{"a": "' + "x" * 40 + '"}\r\n{"a": 4}')
    rows = [{"a": 1}, {"a": 22}, {"a": "x" * 40}, {"a": 4}]
    assert all_rows(read(path, blocks_of(block_size))) == rows


@BOTH
@pytest.mark.parametrize("text", ["", "\n", "\n\n \n"])
def test_a_file_without_objects_has_no_rows(read, write, text):
    assert all_rows(read(write(text))) == []


@BOTH
@pytest.mark.parametrize("block_size", [10, 1 << 20])
def test_values_have_the_types_that_they_have_in_json(read, write, block_size):
    rows = [
        {"n": 1, "s": "2026-11-22"},
        {"n": 1.5, "s": None, "more": {"deep": [1, 2.5, None]}},
        {"n": 2**70, "s": "text", "é": "\u2028"},
        {},
        {"n": "mixed", "s": True},
    ]
    path = write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    read_rows = all_rows(read(path, blocks_of(block_size)))
    assert read_rows == rows
    assert [type(row.get("n")) for row in read_rows] == [int, float, int, type(None), str]


@BOTH
def test_nan_becomes_none_unless_told_otherwise(read, write):
    path = write('{"a": NaN, "b": [NaN], "c": null}\n')
    (row,) = all_rows(read(path))
    assert [row["a"], math.isnan(row["b"][0]), row["c"]] == [None, True, None]
    (row,) = all_rows(read(path, replace_nan=False))
    assert [math.isnan(row["a"]), row["c"]] == [True, None]


@BOTH
@pytest.mark.parametrize("block_size", [10, 1 << 20])
@pytest.mark.parametrize("use_threads", [True, False])
def test_a_schema_gives_every_row_its_columns_and_types(read, write, block_size, use_threads):
    path = write('{"f": 1, "i": 1}\n\n{"i": 2}\n{"other": 3, "f": 2.5}\n')
    dataset = read(
        path,
        pj.ReadOptions(use_threads, block_size),
        pj.ParseOptions(SCHEMA, unexpected_field_behavior="ignore"),
        pa.system_memory_pool(),
    )
    expected = [{"i": 1, "f": 1.0}, {"i": 2, "f": None}, {"i": None, "f": 2.5}]
    for rows in (all_rows(dataset), all_rows(pickle.loads(pickle.dumps(dataset)))):
        assert [list(row.items()) for row in rows] == [list(row.items()) for row in expected]
        assert type(rows[0]["f"]) is float


@BOTH
def test_a_field_that_the_schema_does_not_have_is_an_error_if_so_asked(read, write):
    path = write('{"i": 1}\n{"other": 3}\n')
    options = pj.ParseOptions(SCHEMA, unexpected_field_behavior="error")
    with pytest.raises(ValueError, match=rf"cannot read {path}: .*unexpected field"):
        all_rows(read(path, parse_options=options))


@BOTH
def test_pyarrow_allocates_from_the_given_pool(read, write):
    pool = pa.system_memory_pool()
    before = pool.bytes_allocated()
    dataset = read(write('{"i": 1}\n'), None, pj.ParseOptions(SCHEMA), pool)
    rows = iter([dataset[0]] if read is JsonDataset else dataset)
    assert next(rows) == {"i": 1, "f": None}
    assert pool.bytes_allocated() > before


@BOTH
@pytest.mark.parametrize(
    ("line", "because"),
    [
        ('{"a": 1', "no JSON"),
        ('{"a": 1}{"a": 2}', "no JSON"),
        ("[1]", "no JSON object"),
        (b'{"a": "\xff"}', "no JSON"),
    ],
)
def test_a_line_that_is_no_object_is_an_error_that_shows_it(read, write, line, because):
    path = write(line)
    with pytest.raises(ValueError, match=rf"{path} has a line that is {because}") as caught:
        all_rows(read(path))
    assert str(line)[:6] in str(caught.value)


@BOTH
def test_two_objects_in_a_line_are_an_error_with_a_schema_too(read, write):
    path = write('{"i": 1}{"i": 2}\n')
    with pytest.raises(ValueError, match=rf"{path}: 1 lines hold 2 rows"):
        all_rows(read(path, parse_options=pj.ParseOptions(SCHEMA)))


@BOTH
@pytest.mark.parametrize(
    ("arguments", "error", "because"),
    [
        ({"read_options": {}}, TypeError, "read_options must be a pyarrow.*ReadOptions"),
        ({"parse_options": SCHEMA}, TypeError, "parse_options must be a pyarrow.*ParseOptions"),
        ({"memory_pool": 1}, TypeError, "memory_pool must be a pyarrow.*MemoryPool"),
        ({"replace_nan": 1}, TypeError, "replace_nan must be a bool"),
        ({"lines": True}, TypeError, "unexpected keyword argument 'lines'"),
        (
            {"parse_options": pj.ParseOptions(newlines_in_values=True)},
            ValueError,
            "newlines_in_values must be False",
        ),
        (
            {"parse_options": pj.ParseOptions(unexpected_field_behavior="error")},
            ValueError,
            "'error' needs an explicit_schema",
        ),
    ],
)
def test_wrong_arguments_fail_at_once_by_name(read, arguments, error, because):
    with pytest.raises(error, match=because):
        read("nowhere.jsonl", **arguments)


def test_a_chunk_has_at_least_a_row():
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        IterableJsonDataset("nowhere.jsonl", chunk_size=0)


@BOTH
def test_a_file_that_shrank_is_an_error(read, write):
    path = write('{"a": 1}\n' * 100)
    dataset = read(path, blocks_of(100))
    rows = iter(dataset) if read is IterableJsonDataset else map(dataset.__getitem__, range(100))
    assert next(rows) == {"a": 1}
    path.write_text('{"a": 1}\n' * 50 + '{"a"')
    with pytest.raises((OSError, ValueError), match=str(path)):
        list(rows)


_MEASURE = """
import json, re, sys
from fkat.data.datasets import IterableJsonDataset, JsonDataset
def peak_nbytes():
    # Not getrusage(): what that says begins at the peak of the process that started this one.
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
def count(path):
    return [sum(1 for _ in IterableJsonDataset(path)), len(JsonDataset(path))]
count(sys.argv[1])  # what is imported and allocated for good
before = peak_nbytes()
print(json.dumps([count(sys.argv[2]), peak_nbytes() - before]))
"""


def test_a_large_file_is_streamed_and_indexed_in_bounded_memory(tmp_path, start_trainer):
    path = tmp_path / "large.jsonl"
    line = b'{"text": "' + b"x" * 1000 + b'"}\n'
    path.write_bytes(line * 200_000)
    small = tmp_path / "small.jsonl"
    small.write_bytes(line)
    code, output, errors = start_trainer(_MEASURE, str(small), str(path)).finish()
    assert code == 0, errors
    counts, growth_nbytes = json.loads(output)
    assert counts == [200_000, 200_000]
    assert growth_nbytes < 60 << 20
