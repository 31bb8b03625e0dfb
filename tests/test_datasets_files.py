"""Where files are: paths, URIs, filesystems; and files that cannot be read."""

from __future__ import annotations

import os
import pickle

import fsspec
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.local import LocalFileSystem

from fkat.data.datasets import ParquetDataset
from tests.table_files import FORMATS, make_rows

EACH = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.__name__)
WAYS = pytest.mark.parametrize("way", ["by_row", "stream"])
ROWS = make_rows(20)


@pytest.fixture
def path(kind, tmp_path):
    return kind.write(tmp_path / f"a b{kind.name}", ROWS)


@pytest.fixture
def in_memory(kind, path):
    """The same file in fsspec's memory."""
    uri = f"memory://folder/{kind.name}"
    with fsspec.open(uri, "wb") as file, open(path, "rb") as source:  # noqa: PTH123
        file.write(source.read())
    yield uri
    fsspec.filesystem("memory").rm(f"folder/{kind.name}")


def first_row(dataset):
    """However it is read."""
    return dataset[0] if hasattr(dataset, "__len__") else next(iter(dataset))


@EACH
@WAYS
def test_a_file_is_named_by_str_path_or_uri(kind, way, path, tmp_path):
    read = getattr(kind, way)
    for uri in (path, tmp_path / f"a b{kind.name}", f"file://{path}", (tmp_path / path).as_uri()):
        assert first_row(read(uri)) == ROWS[0]
        assert first_row(read([uri])) == ROWS[0]


@EACH
@WAYS
def test_a_relative_path_stays_what_it_was_when_the_dataset_was_made(
    kind, way, path, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    dataset = getattr(kind, way)(os.path.basename(path))  # noqa: PTH119
    monkeypatch.chdir("/")
    assert first_row(dataset) == ROWS[0]


@EACH
@WAYS
def test_a_uri_that_pyarrow_does_not_know_is_read_by_fsspec(kind, way, in_memory):
    read = getattr(kind, way)
    assert first_row(read(in_memory)) == ROWS[0]
    assert first_row(read([in_memory, in_memory])) == ROWS[0]


@EACH
@WAYS
def test_storage_options_are_those_of_fsspec(kind, way, path, tmp_path):
    cache = tmp_path / "cache"
    options = {"simplecache": {"cache_storage": str(cache)}}
    dataset = getattr(kind, way)(f"simplecache::file://{path}", storage_options=options)
    assert first_row(dataset) == ROWS[0]
    assert len(list(cache.iterdir())) == 1


@EACH
@WAYS
@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize(
    "filesystem",
    [pafs.LocalFileSystem(), LocalFileSystem()],
    ids=["pyarrow", "fsspec"],
)
def test_a_filesystem_reads_paths_and_its_own_uris(kind, way, path, filesystem, scheme):
    dataset = getattr(kind, way)(scheme + path, filesystem=filesystem)
    assert first_row(dataset) == ROWS[0]
    assert first_row(pickle.loads(pickle.dumps(dataset))) == ROWS[0]


@EACH
def test_paths_of_a_filesystem_are_below_its_root(kind, path, tmp_path):
    filesystem = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    assert kind.by_row(f"a b{kind.name}", filesystem=filesystem)[19] == ROWS[19]


@pytest.mark.parametrize(
    ("uri", "options", "error", "because"),
    [
        (3, {}, TypeError, "uri must be a str, a path or a list"),
        ([None], {}, TypeError, "uri must be a str, a path or a list"),
        ([], {}, ValueError, "at least one file"),
        ("x", {"filesystem": 3}, TypeError, "filesystem must be one of pyarrow or fsspec"),
        (
            "x",
            {"filesystem": pafs.LocalFileSystem(), "storage_options": {}},
            ValueError,
            "exclude each other",
        ),
    ],
)
def test_wrong_arguments_fail_at_once_by_name(uri, options, error, because):
    with pytest.raises(error, match=because):
        ParquetDataset(uri, **options)


@EACH
@WAYS
@pytest.mark.parametrize("uri", ["/nowhere/file", "file:///nowhere/file", "memory://nowhere/file"])
def test_a_missing_file_is_named(kind, way, uri):
    with pytest.raises(FileNotFoundError, match=uri) as caught:
        first_row(getattr(kind, way)(uri))
    assert caught.value.filename == uri


@EACH
@WAYS
def test_a_missing_file_among_others_is_named(kind, way, path):
    with pytest.raises(FileNotFoundError, match="/nowhere/file"):
        list(getattr(kind, way)([path, "/nowhere/file"]))


@EACH
@WAYS
def test_a_folder_is_named(kind, way, tmp_path):
    with pytest.raises(OSError, match=f"cannot read {tmp_path}"):
        first_row(getattr(kind, way)(tmp_path))


@EACH
@WAYS
def test_an_unknown_scheme_is_named(kind, way):
    with pytest.raises(ValueError, match=r"cannot read nope://x.*Protocol not known: nope"):
        first_row(getattr(kind, way)("nope://x"))


@WAYS
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_parquet_file_is_named(way, share, tmp_path):
    kind = FORMATS[0]
    path = tmp_path / "file"
    whole = (tmp_path / kind.write(tmp_path / "whole", ROWS)).read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=f"cannot read {path}"):
        first_row(getattr(kind, way)(path))


@WAYS
def test_a_parquet_file_with_damaged_pages_is_named(way, tmp_path):
    kind = FORMATS[0]
    path = tmp_path / "file"
    kind.write(path, ROWS)
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    with pytest.raises((ValueError, OSError), match=f"cannot read {path}"):
        first_row(getattr(kind, way)(path))
