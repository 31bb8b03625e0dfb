"""Shards that are files below a path or URI, in an order that no file system decides."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from fkat.data import _arguments as arguments
from fkat.data._shards.names import merged
from fkat.data._shards.samplers import ShardSampler

# What RFC 3986 (section 3.3) lets stand in a path as it is; `=` is common in names of partitions.
_SAFE_IN_PATHS = "/!$&'()*+,;=:@~"


class FsShardSampler(ShardSampler):
    """The files at or below a path or URI, sorted by path; listed once, here.

    A local path yields absolute local paths, without pyarrow or fsspec. A URI yields URIs of its
    scheme, with its credentials and options (``?endpoint_override=...``), percent-encoded where
    pyarrow reads them (``file://`` and the schemes that it knows).

    Listing ``s3://`` starts the threads of an S3 client in this process, and a fork copies no
    threads: ``multiprocessing_context="forkserver"`` or ``"spawn"`` keep producers clear of them.

    Args:
        uri: A local path, relative or not, ``file://...``, or a URI that pyarrow knows or, failing
            it, fsspec. That of a file is one shard.
        glob: Only files that match this pattern of `fnmatch`, upper and lower case told apart:
            ``*`` stands for any characters, ``/`` among them (so ``**`` is no more than ``*``),
            ``?`` for one, ``[...]`` for one of several. It must match all of either the path
            relative to ``uri`` (``*.parquet``, ``train/part-?.json``) or the whole
            ``scheme://path``, decoded and without credentials and options
            (``s3://bucket/*/part-*.parquet``; for local files ``file:///...`` or ``/...``).
        recursive: Look into folders below, too.
        num_uri_merge: Join so many consecutive files into one shard (a list; the last may be
            shorter); 0 joins none, -1 all.

    Raises:
        FileNotFoundError: There is nothing at ``uri``, or no file that matches.
        ImportError: A remote URI, and neither pyarrow nor fsspec is installed.
        TypeError: An argument has the wrong type.
        ValueError: An argument has a value that cannot work.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        glob: str | None = None,
        recursive: bool = True,
        num_uri_merge: int = 0,
    ) -> None:
        if not isinstance(uri, str | os.PathLike):
            raise TypeError(f"uri must be a path or URI, got {uri!r} of type {type(uri).__name__}")
        if not isinstance(glob, str | None):
            raise TypeError(f"glob must be a str or None, got {glob!r}")
        count = arguments.integer("num_uri_merge", num_uri_merge, minimum=-1)
        files = list_files(os.fspath(uri), glob, arguments.boolean("recursive", recursive))
        self.shards = merged(files, count)


@dataclass(frozen=True)
class _Folder:
    """A place that was listed.

    Args:
        name: ``scheme://path``, decoded, without credentials and options; for patterns and errors.
        files: Its files, as paths relative to it; the path "" means that it is itself a file.
        join: Makes of a relative path what a reader can open.
    """

    name: str
    files: list[str]
    join: Callable[[str], str]


def list_files(uri: str, glob: str | None, recursive: bool) -> list[str]:
    """Every file at or below ``uri`` that matches ``glob``, sorted by path (by code point).

    Args:
        uri: A local path, ``file://``, or a URI that pyarrow or, failing it, fsspec knows.
        glob: As for `fkat.data.sharded.FsShardSampler`.
        recursive: Look into folders below, too.

    Returns:
        Absolute local paths for a local path; for a URI, URIs of the same scheme with the same
        credentials and options.

    Raises:
        FileNotFoundError: There is nothing at ``uri``, or no file in it matches.
        ImportError: Neither pyarrow nor fsspec is there to list a remote URI.
        ValueError: The URI is malformed.
    """
    folder = _list(uri, recursive)
    files = sorted(path for path in folder.files if glob is None or _matches(path, glob, folder))
    if not files:
        what = "there is no file"
        if folder.files:
            example = _full(folder.name, min(folder.files))
            what = f"none of the {len(folder.files)} files (such as {example!r})"
        raise FileNotFoundError(
            f"no shard found: {what} in {folder.name!r} with glob={glob!r}, recursive={recursive}"
        )
    return [folder.join(path) for path in files]


def _matches(path: str, glob: str, folder: _Folder) -> bool:
    full = _full(folder.name, path)
    return any(fnmatchcase(form, glob) for form in (path, full, full.removeprefix("file://")))


def _full(folder: str, path: str) -> str:
    return folder + "/" * (folder[-1] != "/") + path if path else folder


def _list(uri: str, recursive: bool) -> _Folder:
    scheme, is_uri, rest = uri.partition("://")
    if not is_uri:
        root = os.path.abspath(uri)  # noqa: PTH100 (it takes ".." out, and leaves links in)
        return _Folder(f"file://{root}", _local_files(root, recursive), _joiner(root, str))
    path, mark, options = rest.partition("?")
    name = f"{scheme}://{unquote(re.sub('^[^/]*@', '', path))}"
    join = _joiner(f"{scheme}://{path}", _quoted, mark + options)
    if scheme == "file":
        if path[:1] != "/":
            raise ValueError(f"a file URI has three slashes and an absolute path, got {uri!r}")
        return _Folder(name, _local_files(unquote(path), recursive), join)
    if (found := _arrow_filesystem(uri)) is not None:
        return _Folder(name, _arrow_files(*found, name, recursive), join)
    # fsspec decodes nothing, and has no options in its URIs.
    return _Folder(name, _fsspec_files(uri, name, recursive), _joiner(uri, str))


def _joiner(root: str, encode: Callable[[str], str], tail: str = "") -> Callable[[str], str]:
    return lambda path: _full(root, encode(path)) + tail


def _quoted(path: str) -> str:
    return quote(path, safe=_SAFE_IN_PATHS)


def _missing(name: str) -> FileNotFoundError:
    return FileNotFoundError(f"no shard found: there is no file or folder {name!r}")


def _local_files(root: str, recursive: bool) -> list[str]:
    if Path(root).is_file():
        return [""]
    if not Path(root).is_dir():
        raise _missing(root)
    return [os.path.relpath(path, root) for path in _walk(Path(root), recursive, set())]


def _walk(folder: Path, recursive: bool, seen: set[Path]) -> Iterator[Path]:
    # Links are followed; each folder is visited once, for a link to a parent would never end.
    seen.add(folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path
        elif recursive and path.is_dir() and path.resolve() not in seen:
            yield from _walk(path, recursive, seen)


def _arrow_filesystem(uri: str) -> tuple[Any, str] | None:
    """The filesystem and the path in it; None when pyarrow is missing or does not know."""
    try:
        from pyarrow import (  # type: ignore[import-untyped]
            ArrowInvalid,
            ArrowNotImplementedError,
        )
        from pyarrow.fs import FileSystem  # type: ignore[import-untyped]
    except ImportError:
        return None
    try:
        filesystem, path = FileSystem.from_uri(uri)
    except ArrowNotImplementedError:  # a filesystem that this build leaves out
        return None
    except ArrowInvalid as error:
        if "Unrecognized filesystem type" in str(error):
            return None
        raise
    return filesystem, path


def _arrow_files(filesystem: Any, root: str, name: str, recursive: bool) -> list[str]:
    from pyarrow.fs import FileSelector, FileType

    kind = filesystem.get_file_info(root).type
    if kind == FileType.NotFound:
        raise _missing(name)
    if kind == FileType.File:
        return [""]
    entries = filesystem.get_file_info(FileSelector(root, recursive=recursive))
    return _relative([entry.path for entry in entries if entry.type == FileType.File], root)


def _fsspec_files(uri: str, name: str, recursive: bool) -> list[str]:
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    except ImportError:
        raise ImportError(
            f"listing {name!r} needs pyarrow (pip install 'fkat-data[parquet]'), or fsspec for a "
            "scheme that pyarrow does not know"
        ) from None
    filesystem, root = url_to_fs(uri)
    if not filesystem.exists(root):
        raise _missing(name)
    # find() of a file returns the file.
    return _relative(filesystem.find(root, maxdepth=None if recursive else 1), root)


def _relative(paths: list[str], root: str) -> list[str]:
    return [path[len(root.rstrip("/")) :].lstrip("/") for path in paths]
