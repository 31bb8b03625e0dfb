"""Whatever the rows, the blocks and the chunks: the same rows, from any place on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from fkat.data import datasets
from tests.table_files import json_lines

TYPES = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.int8(): st.integers(-128, 127),
    pa.float64(): st.floats(allow_nan=False),
    pa.string(): st.text(st.characters(exclude_categories=["Cs"])),
    pa.bool_(): st.booleans(),
    pa.list_(pa.int32()): st.lists(st.integers(-5, 5), max_size=3),
    pa.struct([("x", pa.string())]): st.fixed_dictionaries({"x": st.none() | st.text("ab")}),
}
SMALL = st.integers(1, 10)


@st.composite
def tables(draw):
    names = draw(st.lists(st.text("abc.é ", min_size=1), min_size=1, max_size=4, unique=True))
    count = draw(st.integers(0, 25))
    columns = {}
    for name in names:
        kind = draw(st.sampled_from(list(TYPES)))
        values = draw(st.lists(st.none() | TYPES[kind], min_size=count, max_size=count))
        columns[name] = pa.array(values, kind)
    return pa.table(columns)


def check(by_row, new_stream, rows):
    """By row, in order, and in order from every place on."""
    assert len(by_row) == len(rows)
    assert [by_row[i] for i in range(len(rows))] == rows
    assert by_row.__getitems__(range(-1, -len(rows) - 1, -1)) == rows[::-1]
    whole = new_stream()
    states = [whole.state_dict()]
    assert [(row, states.append(whole.state_dict()))[0] for row in whole] == rows
    for count, state in enumerate(states):
        rest = new_stream()
        rest.load_state_dict(state)
        assert list(rest) == rows[count:]


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(tables(), min_size=1, max_size=3), row_group_size=SMALL, chunk_size=SMALL)
def test_parquet_files_give_the_rows_of_their_tables(parts, row_group_size, chunk_size):
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(i)) for i in range(len(parts))]
        for path, table in zip(paths, parts, strict=True):
            pq.write_table(table, path, row_group_size=row_group_size)
        check(
            datasets.ParquetDataset(paths, use_threads=False),
            lambda: datasets.IterableParquetDataset(paths, None, False, chunk_size),
            [row for table in parts for row in table.to_pylist()],
        )


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(tables(), min_size=1, max_size=3),
    block_size=st.integers(1, 200),
    chunk_size=SMALL,
)
def test_json_files_give_the_rows_that_were_written(parts, block_size, chunk_size):
    options = pj.ReadOptions(block_size=block_size)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(i)) for i in range(len(parts))]
        for path, table in zip(paths, parts, strict=True):
            path.write_bytes(json_lines(table.to_pylist()))
        check(
            datasets.JsonDataset(paths, options),
            lambda: datasets.IterableJsonDataset(paths, options, chunk_size=chunk_size),
            [row for table in parts for row in table.to_pylist()],
        )
