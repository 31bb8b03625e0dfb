"""Files in an object store, through pyarrow and through s3fs."""

from __future__ import annotations

import pickle

import pytest
from torch.utils.data import DataLoader

from tests.table_files import FORMATS, make_rows

pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

from tests.object_store import CREDENTIALS, ObjectStore

EACH = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.__name__)
ROWS = make_rows(40)
PARTS = [ROWS[:25], ROWS[25:]]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    store = ObjectStore()
    try:
        for kind in FORMATS:
            for i, rows in enumerate(PARTS):
                path = folder / f"{i}"
                kind.write(path, rows)
                store.put(f"{kind.__name__}/part {i}", path.read_bytes())
        yield store
    finally:
        store.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def keys(kind):
    return [f"{kind.__name__}/part {i}" for i in range(len(PARTS))]


def by_uri(store, kind):
    return {"uri": [store.uri(key) for key in keys(kind)]}


def by_pyarrow(store, kind):
    return {
        "uri": [f"s3://{store.bucket}/{key}" for key in keys(kind)],
        "filesystem": store.new_filesystem(),
    }


def by_s3fs(store, kind):
    import s3fs

    return {
        "uri": [f"s3://{store.bucket}/{key}" for key in keys(kind)],
        "filesystem": s3fs.S3FileSystem(**store.storage_options()),
    }


def by_fsspec(store, kind):
    return {
        "uri": [f"s3://{store.bucket}/{key}" for key in keys(kind)],
        "storage_options": store.storage_options(),
    }


CLIENTS = pytest.mark.parametrize("client", [by_uri, by_pyarrow, by_s3fs, by_fsspec])


@EACH
@CLIENTS
def test_rows_by_index(kind, client, store):
    dataset = kind.by_row(**client(store, kind))
    assert len(dataset) == 40
    assert [dataset[i] for i in range(40)] == ROWS
    assert pickle.loads(pickle.dumps(dataset)).__getitems__([39, 0]) == [ROWS[39], ROWS[0]]


@EACH
@CLIENTS
def test_rows_in_order_and_from_any_place_on(kind, client, store):
    dataset = kind.stream(**client(store, kind))
    states = [(row, dataset.state_dict())[1] for row in dataset]
    assert list(dataset) == ROWS
    for place in (3, 24, 30):
        restored = pickle.loads(pickle.dumps(kind.stream(**client(store, kind))))
        restored.load_state_dict(states[place])
        assert list(restored) == ROWS[place + 1 :]


@EACH
@pytest.mark.parametrize("client", [by_uri, by_s3fs])
def test_workers_of_a_loader_read_what_this_process_has_read(kind, client, store):
    by_row, stream = kind.by_row(**client(store, kind)), kind.stream(**client(store, kind))
    assert (by_row[0], next(iter(stream))) == (ROWS[0], ROWS[0])
    # Not forked: the threads of pyarrow's client would be missing in a copy of this process.
    options = {"multiprocessing_context": "forkserver", "batch_size": None}
    assert list(DataLoader(by_row, num_workers=1, **options)) == ROWS
    rows = DataLoader(stream, num_workers=2, **options)
    assert sorted(rows, key=lambda row: row["number"]) == ROWS


@EACH
@CLIENTS
@pytest.mark.parametrize("way", ["by_row", "stream"])
def test_a_missing_object_is_named(kind, client, way, store):
    options = client(store, kind)
    options["uri"] = options["uri"][0].replace("part", "nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        next(iter(getattr(kind, way)(**options)))
    assert caught.value.filename == options["uri"]


@EACH
def test_a_store_that_does_not_answer_is_named(kind, store):
    uri = store.uri(keys(kind)[0]).replace("127.0.0.1", "127.0.0.1%3A1%2F")
    with pytest.raises(OSError, match="cannot read s3://bucket"):
        kind.by_row(uri)[0]
