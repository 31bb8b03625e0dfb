"""Shards that are files: local ones, through pyarrow, through fsspec, in an object store."""

from __future__ import annotations

import builtins
import os
import random
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import quote

import fsspec
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from fkat.data._shards.files import FsShardSampler

FILES = ["b.parquet", "a.parquet", "a.json", "sub/a.parquet", "sub/deep/c.json", "sub-2/d.parquet"]
ODD_NAMES = ["a b", "a%20b", "p+q", "ü", "h#1", "q?1", "k=v,w", "br[1]", "back\\s", 'q"', "at@b"]


def shards(uri, *args, **options):
    return list(FsShardSampler(uri, *args, **options))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder `data`, with empty folders in it, in the working directory."""
    for name in random.sample(FILES, len(FILES)):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "data" / "empty.parquet").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def below(folder, *names):
    return [str(folder / name) for name in names]


class TestALocalPath:
    """A path without a scheme."""

    def test_yields_absolute_paths_of_files_sorted(self, folder):
        assert shards(str(folder)) == below(folder, *sorted(FILES))
        assert [Path(shard).read_text() for shard in shards(str(folder))] == sorted(FILES)

    def test_may_be_relative_a_path_object_and_end_in_a_slash(self, folder):
        expected = below(folder, *sorted(FILES))
        uris = ["data", "./data", "data/", "sub/../data", Path("data"), f"{folder}/"]
        assert [shards(uri) for uri in uris] == [expected] * len(uris)

    def test_order_is_not_that_of_the_file_system(self, folder, monkeypatch):
        expected = below(folder, *sorted(FILES))
        listdir = os.listdir
        monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path), reverse=True))
        assert shards("data") == expected
        monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path)))
        assert shards("data") == expected

    def test_without_recursion_ends_at_the_folder(self, folder):
        assert shards("data", recursive=False) == below(folder, "a.json", "a.parquet", "b.parquet")

    def test_of_a_file_is_one_shard(self, folder):
        assert shards("data/a.json") == below(folder, "a.json")
        assert shards("data/a.json", "*.json") == below(folder, "a.json")

    def test_is_listed_once(self, folder):
        sampler = FsShardSampler("data")
        (folder / "c.parquet").touch()
        assert list(sampler) == below(folder, *sorted(FILES))

    def test_with_odd_names_yields_what_can_be_opened(self, tmp_path):
        for name in ODD_NAMES:
            (tmp_path / name).write_text(name)
        assert [Path(shard).read_text() for shard in shards(tmp_path)] == sorted(ODD_NAMES)

    def test_follows_links_and_ends_where_they_go_round(self, folder):
        (folder / "linked.json").symlink_to(folder / "a.json")
        (folder / "sub" / "up").symlink_to(folder)
        elsewhere = folder.parent / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "e.json").touch()
        (folder / "link").symlink_to(elsewhere)
        expected = sorted([*FILES, "linked.json", "link/e.json"])
        assert shards("data") == below(folder, *expected)

    @pytest.mark.parametrize("uri", ["data", "file"])
    def test_needs_neither_pyarrow_nor_fsspec(self, folder, uri):
        uri = folder.as_uri() if uri == "file" else uri
        script = (
            "import sys; from fkat.data._shards.files import FsShardSampler;"
            f"print(len(FsShardSampler({uri!r})), *{{'pyarrow', 'fsspec'}} & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["6"]


class TestAFileUri:
    """``file://``."""

    def test_yields_file_uris(self, folder):
        expected = [f"file://{folder}/{name}" for name in sorted(FILES)]
        assert shards(f"file://{folder}") == expected
        assert shards(f"file://{folder}/") == expected

    def test_is_percent_encoded_as_pyarrow_reads_it(self, tmp_path):
        root = tmp_path / "with space"
        root.mkdir()
        for name in ODD_NAMES:
            (root / name).write_text(name)
        assert read_by_arrow(shards(root.as_uri())) == sorted(ODD_NAMES)

    def test_without_three_slashes_says_so(self):
        with pytest.raises(ValueError, match=r"three slashes and an absolute path.*file://data"):
            FsShardSampler("file://data")


def read_by_arrow(uris):
    opened = []
    for uri in uris:
        filesystem, path = fs.FileSystem.from_uri(uri)
        with filesystem.open_input_stream(path) as stream:
            opened.append(stream.read().decode())
    return opened


class TestTheGlob:
    """It matches the path relative to the URI, or the whole ``scheme://path``."""

    @pytest.mark.parametrize(
        ("glob", "expected"),
        [
            (None, sorted(FILES)),
            ("*", sorted(FILES)),
            ("*.json", ["a.json", "sub/deep/c.json"]),
            ("**/*.json", ["a.json", "sub/deep/c.json"]),
            ("a.*", ["a.json", "a.parquet"]),
            ("**/a.parquet", ["a.parquet", "sub/a.parquet"]),
            ("sub/*", ["sub/a.parquet", "sub/deep/c.json"]),
            ("sub*/?.parquet", ["sub-2/d.parquet", "sub/a.parquet"]),
            ("[bd].parquet", ["b.parquet"]),
            ("file://*/data/sub/a.*", ["sub/a.parquet"]),
            ("/*/data/a.json", ["a.json"]),
        ],
    )
    @pytest.mark.parametrize("scheme", ["", "file://"])
    def test_of_local_files(self, folder, scheme, glob, expected):
        found = shards(f"{scheme}{folder}", glob)
        assert found == [f"{scheme}{folder}/{name}" for name in expected]

    def test_with_the_whole_folder_in_it(self, folder):
        for whole in (f"{folder}/*.json", f"file://{folder}/*.json"):
            assert shards("data", whole) == below(folder, "a.json", "sub/deep/c.json")

    def test_does_not_limit_depth_but_recursive_does(self, folder):
        assert shards("data", "*.json", recursive=False) == below(folder, "a.json")

    def test_that_matches_nothing_is_an_error_with_the_uri_and_the_glob(self, folder):
        message = (
            rf"none of the 6 files \(such as 'file://{folder}/a.json'\) in 'file://{folder}' with "
            r"glob='\*\.PARQUET', recursive=True"
        )
        with pytest.raises(FileNotFoundError, match=message):
            FsShardSampler("data", "*.PARQUET")

    def test_an_empty_folder_is_an_error(self, folder):
        empty = folder / "empty.parquet"
        message = f"no shard found: there is no file in 'file://{empty}' with glob=None"
        with pytest.raises(FileNotFoundError, match=message):
            FsShardSampler(empty)


@pytest.mark.parametrize("uri", ["nowhere", "file:///nowhere", "memory://nowhere"])
def test_nothing_there_is_an_error_that_names_it(uri):
    with pytest.raises(FileNotFoundError, match=f"there is no file or folder '.*{uri[-7:]}'"):
        FsShardSampler(uri)


class TestMerging:
    """`num_uri_merge` joins consecutive files."""

    @pytest.mark.parametrize(
        ("count", "expected"),
        [
            (0, ["a", "b", "c", "d", "e"]),
            (1, [["a"], ["b"], ["c"], ["d"], ["e"]]),
            (2, [["a", "b"], ["c", "d"], ["e"]]),
            (5, [["a", "b", "c", "d", "e"]]),
            (99, [["a", "b", "c", "d", "e"]]),
            (-1, [["a", "b", "c", "d", "e"]]),
        ],
    )
    def test_makes_lists(self, tmp_path, count, expected):
        for name in "abcde":
            (tmp_path / name).touch()
        relative = [
            Path(shard).name if isinstance(shard, str) else [Path(uri).name for uri in shard]
            for shard in shards(tmp_path, num_uri_merge=count)
        ]
        assert relative == expected


class TestFsspec:
    """A scheme that pyarrow does not know."""

    @pytest.fixture
    def uri(self):
        name = f"fkat-{uuid.uuid4().hex}"
        memory = fsspec.filesystem("memory")
        for file in [*FILES, "a b", "a%20b"]:
            memory.pipe(f"/{name}/{file}", file.encode())
        memory.makedirs(f"/{name}/empty.parquet")
        yield f"memory://{name}"
        memory.rm(f"/{name}", recursive=True)

    def test_yields_uris_that_it_opens(self, uri):
        found = shards(uri)
        assert found == [f"{uri}/{name}" for name in sorted([*FILES, "a b", "a%20b"])]
        assert [fsspec.open(shard).open().read().decode() for shard in found] == sorted(
            [*FILES, "a b", "a%20b"]
        )

    def test_keeps_the_form_of_the_uri(self, uri):
        other = uri.replace("://", ":///") + "/"
        assert shards(other, "*.json") == [f"{other}a.json", f"{other}sub/deep/c.json"]
        assert shards(f"{uri}/a.json") == [f"{uri}/a.json"]

    def test_takes_a_glob_and_recursive(self, uri):
        assert shards(uri, "*.json", recursive=False) == [f"{uri}/a.json"]
        assert shards(uri, f"{uri}/sub/*.json") == [f"{uri}/sub/deep/c.json"]

    def test_an_unknown_scheme_is_an_error_that_names_it(self):
        with pytest.raises(ValueError, match="nothing-such"):
            FsShardSampler("nothing-such://bucket/data")

    def test_that_is_missing_too_is_an_error_that_says_what_to_install(self, monkeypatch):
        original = builtins.__import__

        def without(name, *args, **kwargs):
            if name.partition(".")[0] in ("pyarrow", "fsspec"):
                raise ImportError(name)
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(ImportError, match=r"'s3://bucket/data' needs pyarrow \(pip install"):
            FsShardSampler("s3://user:secret@bucket/data?region=here")


class TestAnObjectStore:
    """``s3://``, through pyarrow."""

    @pytest.fixture(scope="class")
    def options(self):
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"?endpoint_override={quote(f'{host}:{port}')}&scheme=http&region=us-east-1"
        server.stop()

    @pytest.fixture
    def bucket(self, options):
        bucket = f"s3://key:secret@fkat-{uuid.uuid4().hex}"
        filesystem, root = fs.FileSystem.from_uri(f"{bucket}{options}&allow_bucket_creation=true")
        filesystem.create_dir(root)
        for name in [*FILES, "day=1/a b+c%20.json"]:
            with filesystem.open_output_stream(f"{root}/data/{name}") as stream:
                stream.write(name.encode())
        filesystem.create_dir(f"{root}/data/empty.parquet")
        return bucket

    def test_yields_uris_with_credentials_and_options_that_pyarrow_opens(self, bucket, options):
        found = shards(f"{bucket}/data{options}", num_uri_merge=-1)[0]
        names = sorted([*FILES, "day=1/a b+c%20.json"])
        encoded = [name.replace("%", "%25").replace(" ", "%20") for name in names]
        assert found == [f"{bucket}/data/{name}{options}" for name in encoded]
        assert read_by_arrow(found) == names

    def test_takes_a_glob_on_what_has_no_credentials(self, bucket, options):
        host = bucket.replace("key:secret@", "")
        assert shards(f"{bucket}/data/{options}", f"{host}/data/sub/*.json") == [
            f"{bucket}/data/sub/deep/c.json{options}"
        ]
        assert shards(f"{bucket}/data{options}", "*.json", recursive=False) == [
            f"{bucket}/data/a.json{options}"
        ]

    def test_of_an_object_is_one_shard(self, bucket, options):
        uri = f"{bucket}/data/a.json{options}"
        assert shards(uri) == [uri]

    def test_errors_name_the_place_and_no_secret(self, bucket, options):
        for path, glob in [("nowhere", None), ("data", "*.csv")]:
            with pytest.raises(FileNotFoundError) as raised:
                FsShardSampler(f"{bucket}/{path}{options}", glob)
            host = bucket.replace("key:secret@", "")
            assert f"'{host}/{path}'" in str(raised.value)
            assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"uri": 3}, "uri"),
        ({"uri": ["data"]}, "uri"),
        ({"glob": 3}, "glob"),
        ({"recursive": 1}, "recursive"),
        ({"num_uri_merge": "2"}, "num_uri_merge"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_by_name(folder, arguments, name):
    with pytest.raises(TypeError, match=f"^{name} must be"):
        FsShardSampler(**{"uri": "data", **arguments})


def test_num_uri_merge_below_minus_1_is_refused(folder):
    with pytest.raises(ValueError, match="num_uri_merge must be at least -1, got -2"):
        FsShardSampler("data", num_uri_merge=-2)
