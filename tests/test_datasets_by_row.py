"""Rows of files by index: what Parquet and JSON have in common."""

from __future__ import annotations

import multiprocessing
import pickle

import pytest
from torch.utils.data import DataLoader

from tests.table_files import FORMATS, CountingHandler, make_rows

EACH = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.__name__)
ROWS = make_rows(60)


@pytest.fixture
def path(kind, tmp_path):
    return kind.write(tmp_path / kind.name, ROWS)


def ask(dataset, indices, queue):
    queue.put(dataset.__getitems__(indices))


@EACH
def test_rows_are_those_of_the_file_in_its_order(kind, path):
    dataset = kind.by_row(path)
    assert len(dataset) == 60
    assert [dataset[i] for i in range(60)] == ROWS
    assert all(list(dataset[i]) == list(ROWS[i]) for i in range(60))


@EACH
def test_files_follow_one_another(kind, tmp_path):
    names = ("a", "b", "c", "d")
    parts = [ROWS[:20], [], ROWS[20:21], ROWS[21:]]
    paths = [kind.write(tmp_path / name, rows) for name, rows in zip(names, parts, strict=True)]
    dataset = kind.by_row(paths)
    assert len(dataset) == 60
    assert [dataset[i] for i in range(60)] == ROWS


@EACH
def test_several_rows_come_in_the_order_they_are_asked_for(kind, path):
    indices = [59, 0, 0, -1, 31, 7, -60, 6]
    assert kind.by_row(path).__getitems__(indices) == [ROWS[i] for i in indices]
    assert kind.by_row(path).__getitems__([]) == []


@EACH
def test_indices_are_those_of_a_list(kind, path):
    dataset = kind.by_row(path)
    assert [dataset[-1], dataset[-60]] == [ROWS[59], ROWS[0]]
    for index in (60, -61):
        with pytest.raises(IndexError, match=f"row {index} of a dataset with 60 rows"):
            dataset[index]
    with pytest.raises(TypeError, match=r"must be an int, got slice.*Subset"):
        dataset[1:3]


@EACH
def test_an_empty_file_has_no_rows(kind, tmp_path):
    dataset = kind.by_row(kind.write(tmp_path / "empty", []))
    assert len(dataset) == 0
    with pytest.raises(IndexError):
        dataset[0]


@EACH
def test_nothing_is_opened_before_the_first_use(kind, path):
    files = CountingHandler()
    dataset = kind.by_row(path, filesystem=files.filesystem)
    assert files.opened == []
    len(dataset)
    assert set(files.opened) == {kind.name}


@EACH
def test_a_row_costs_reading_its_block_and_no_other(kind, tmp_path):
    path = kind.write(tmp_path / kind.name, make_rows(5000), row_group_size=100)
    files = CountingHandler()
    dataset = kind.by_row(path, filesystem=files.filesystem)
    total = (tmp_path / kind.name).stat().st_size
    dataset[0]
    before = files.num_bytes
    assert dataset[2500]["number"] == 2500
    assert 0 < files.num_bytes - before < total / 5


@EACH
def test_several_rows_of_a_block_read_it_once(kind, path):
    files = CountingHandler()
    dataset = kind.by_row(path, filesystem=files.filesystem)
    dataset.__getitems__([0, 59])
    before = files.num_bytes
    assert dataset.__getitems__([0, 1, 2, 59, 58]) == [ROWS[i] for i in (0, 1, 2, 59, 58)]
    assert files.num_bytes == before


@EACH
def test_blocks_in_memory_are_bounded(kind, path, monkeypatch):
    monkeypatch.setattr("fkat.data.datasets._random_access.CACHE_NBYTES", 1)
    files = CountingHandler()
    dataset = kind.by_row(path, filesystem=files.filesystem)
    dataset.__getitems__([0, 59])
    before = files.num_bytes
    assert dataset[58] == ROWS[58]
    assert files.num_bytes == before  # the last block is kept
    assert dataset[0] == ROWS[0]
    assert files.num_bytes > before  # and no other


@EACH
def test_more_files_than_are_kept_open(kind, tmp_path):
    paths = [kind.write(tmp_path / f"{i}", ROWS[i : i + 1]) for i in range(30)]
    dataset = kind.by_row(paths)
    assert [dataset[i] for i in (*range(30), 0)] == [*ROWS[:30], ROWS[0]]


@EACH
def test_a_pickled_dataset_carries_its_index_and_no_open_file(kind, path):
    dataset = kind.by_row(path)
    assert pickle.loads(pickle.dumps(dataset))[3] == ROWS[3]
    _ = dataset[3]
    files = CountingHandler()
    indexed = pickle.loads(pickle.dumps(dataset))
    assert len(indexed) == 60
    assert indexed[3] == ROWS[3]
    assert files.opened == []


@EACH
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_dataset_that_has_been_read_is_read_on_in_another_process(kind, path, method):
    dataset = kind.by_row(path)
    _ = dataset[3]
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=ask, args=(dataset, [3, 40], queue))
    process.start()
    assert queue.get() == [ROWS[3], ROWS[40]]
    process.join()
    queue.close()
    assert dataset[41] == ROWS[41]


@EACH
def test_processes_after_a_fork_open_their_own_files(kind, path):
    files = CountingHandler()
    dataset = kind.by_row(path, filesystem=files.filesystem)
    _ = dataset[0]
    here = dataset._reader.get()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def look():
        queue.put(dataset._reader.get() is here)

    process = context.Process(target=look)
    process.start()
    assert queue.get() is False
    process.join()
    queue.close()


@EACH
def test_workers_of_a_loader_deliver_every_row(kind, path):
    loader = DataLoader(kind.by_row(path), 7, shuffle=True, num_workers=2, collate_fn=list)
    rows = [row for batch in loader for row in batch]
    assert rows != ROWS
    assert sorted(rows, key=lambda row: row["number"]) == ROWS
