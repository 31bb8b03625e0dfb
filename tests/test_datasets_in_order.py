"""Rows of files in order: what Parquet and JSON have in common."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from fkat.data import PersistStates, RestoreStates
from tests.table_files import FORMATS, CountingHandler, make_rows

EACH = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.__name__)
ROWS = make_rows(60)
PARTS = [ROWS[:20], [], ROWS[20:21], ROWS[21:]]


@pytest.fixture
def paths(kind, tmp_path):
    return [kind.write(tmp_path / f"{i}", rows) for i, rows in enumerate(PARTS)]


def numbers(rows):
    return [row["number"] for row in rows]


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


@EACH
@pytest.mark.parametrize("chunk_size", [1, 2, 7, 10000])
def test_rows_are_those_of_the_files_in_their_order(kind, paths, chunk_size):
    assert list(kind.stream(paths, chunk_size=chunk_size)) == ROWS


@EACH
def test_each_pass_begins_at_the_first_row(kind, paths):
    dataset = kind.stream(paths)
    assert [list(dataset), list(dataset)] == [ROWS, ROWS]
    take(iter(dataset), 3)
    assert list(dataset) == ROWS


@EACH
def test_nothing_is_opened_before_the_first_row(kind, paths):
    files = CountingHandler()
    rows = iter(kind.stream(paths, filesystem=files.filesystem))
    assert files.opened == []
    next(rows)
    assert files.opened == ["0"]


@EACH
def test_a_pass_goes_on_behind_any_row(kind, paths):
    dataset = kind.stream(paths, chunk_size=3)
    states = [dataset.state_dict()]
    for _ in dataset:
        states.append(dataset.state_dict())
    for count, state in enumerate(states):
        restored = kind.stream(paths, chunk_size=5)
        restored.load_state_dict(state)
        assert restored.state_dict() == state
        assert list(restored) == ROWS[count:]
        assert list(restored) == ROWS


@EACH
def test_the_state_counts_rows_and_starts_anew_after_the_last(kind, paths):
    dataset = kind.stream(paths)
    start = {"file": 0, "block": 0, "row": 0, "worker": 0, "num_workers": 1}
    rows = iter(dataset)
    assert dataset.state_dict() == start
    take(rows, 2)
    assert dataset.state_dict() == {**start, "row": 2}
    take(rows, 58)
    assert dataset.state_dict()["file"] == 3
    assert next(rows, None) is None
    assert dataset.state_dict() == start
    assert all(type(value) is int for value in dataset.state_dict().values())


@EACH
def test_a_state_is_loaded_in_the_middle_of_a_pass(kind, paths):
    dataset = kind.stream(paths)
    take(iter(dataset), 10)
    state = dataset.state_dict()
    take(iter(dataset), 25)
    dataset.load_state_dict(state)
    assert list(dataset) == ROWS[10:]


@EACH
def test_a_state_is_for_the_next_pass_alone(kind, paths):
    dataset = kind.stream(paths)
    take(iter(dataset), 10)
    dataset.load_state_dict(dataset.state_dict())
    assert take(iter(dataset), 5) == ROWS[10:15]
    assert list(dataset) == ROWS


@EACH
def test_an_empty_state_changes_nothing(kind, paths):
    dataset = kind.stream(paths)
    dataset.load_state_dict({})
    assert list(dataset) == ROWS


@EACH
def test_a_state_travels_with_the_dataset(kind, paths):
    dataset = kind.stream(paths)
    take(iter(dataset), 10)
    restored = kind.stream(paths)
    restored.load_state_dict(dataset.state_dict())
    assert list(pickle.loads(pickle.dumps(restored))) == ROWS[10:]


@EACH
def test_going_on_reads_nothing_of_what_came_before(kind, tmp_path):
    rows = make_rows(12000)
    paths = [kind.write(tmp_path / f"{i}", rows, row_group_size=1000) for i in range(2)]
    dataset = kind.stream(paths)
    take(iter(dataset), 12000 + 11500)
    files = CountingHandler()
    restored = kind.stream(paths, filesystem=files.filesystem)
    restored.load_state_dict(dataset.state_dict())
    assert list(restored) == rows[11500:]
    assert set(files.opened) == {"1"}
    assert files.num_bytes < (tmp_path / "1").stat().st_size / 3


@EACH
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_workers_share_the_rows_out(kind, paths, num_workers):
    loader = DataLoader(kind.stream(paths), None, num_workers=num_workers)
    for _ in range(2):
        assert sorted(numbers(loader)) == list(range(60))


@EACH
def test_a_worker_reads_no_blocks_of_the_other(kind, tmp_path):
    rows = make_rows(200)
    path = kind.write(tmp_path / "file", rows)
    loader = DataLoader(kind.stream(path), batch_size=None, num_workers=2)
    workers = [set(), set()]
    for i, row in enumerate(loader):  # in turn, until one has come to its end
        if i < 100:
            workers[i % 2].add(row["number"])
    assert not workers[0] & workers[1]
    assert all(len(worker) == 50 for worker in workers)


@EACH
@pytest.mark.filterwarnings("ignore:.set_vital. is deprecated")  # by torchdata, of torch
def test_stateful_workers_go_on_where_they_were(kind, paths):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def new_loader(num_workers):
        return stateful.StatefulDataLoader(
            kind.stream(paths), 4, num_workers=num_workers, collate_fn=list
        )

    for num_workers in (0, 2):
        whole = list(new_loader(num_workers))
        for count in (1, 5, 9):
            loader = new_loader(num_workers)
            take(iter(loader), count)
            restored = new_loader(num_workers)
            restored.load_state_dict(loader.state_dict())
            assert list(restored) == whole[count:]


@EACH
def test_a_state_of_another_number_of_workers_is_refused(kind, paths):
    dataset = kind.stream(paths)
    dataset.load_state_dict({**dataset.state_dict(), "num_workers": 2})
    with pytest.raises(ValueError, match=r"worker 0 of 2, .* by worker 0 of 1.*num_workers"):
        iter(dataset)


@EACH
@pytest.mark.parametrize(
    ("change", "because"),
    [
        (lambda state: [], "dict with the keys .* got list"),
        (lambda state: {"file": 0}, r"dict with the keys .* got \['file'\]"),
        (lambda state: {**state, "more": 0}, "dict with the keys"),
        (lambda state: {**state, "row": 1.0}, "'row' in a state must be an int.*1.0"),
        (lambda state: {**state, "row": -1}, "'row' in a state must be an int.*-1"),
        (lambda state: {**state, "row": True}, "'row' in a state must be an int.*True"),
        (lambda state: {**state, "row": torch.tensor(1)}, "'row' in a state must be an int"),
        (lambda state: {**state, "file": 4}, "in file 4, .* there are 4 files"),
    ],
)
def test_what_is_no_state_is_refused_and_changes_nothing(kind, paths, change, because):
    dataset = kind.stream(paths)
    with pytest.raises(ValueError, match=because):
        dataset.load_state_dict(change(dataset.state_dict()))
    assert list(dataset) == ROWS


@EACH
@pytest.mark.parametrize("place", [{"row": 300}, {"block": 300, "row": 1}], ids=["row", "block"])
def test_a_state_of_other_data_is_refused_by_the_file_that_shows_it(kind, paths, place):
    dataset = kind.stream(paths)
    dataset.load_state_dict({**dataset.state_dict(), **place})
    with pytest.raises(ValueError, match=rf"{paths[0]} .*300.* saved for other data"):
        next(iter(dataset))


@EACH
def test_it_persists_and_restores_states(kind, paths):
    assert isinstance(kind.stream(paths), PersistStates)
    assert isinstance(kind.stream(paths), RestoreStates)
    with pytest.raises(TypeError):
        len(kind.stream(paths))
