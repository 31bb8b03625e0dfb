"""From a URI to an open file: pyarrow's filesystems, and fsspec's where pyarrow has none."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.fs as pafs  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Locations:
    """Where the files of a dataset are, in plain values.

    Attributes:
        uris: Absolute paths and URIs.
        filesystem: The user's filesystem of pyarrow or fsspec, or None.
        storage_options: The user's options for fsspec, or None.
        pid: The process that ``filesystem`` was made in.
    """

    uris: tuple[str, ...]
    filesystem: Any = None
    storage_options: dict[str, Any] | None = None
    pid: int = field(default_factory=os.getpid)


def locate(uri: Any, filesystem: Any, storage_options: dict[str, Any] | None) -> Locations:
    """Check what a user says about where files are; looks at none of them.

    Raises:
        TypeError: ``uri`` is neither a path nor a list of paths.
        ValueError: It is an empty list, or both ways to name a filesystem are used.
    """
    uris = list(uri) if isinstance(uri, list | tuple) else [uri]
    if not uris:
        raise ValueError("uri must name at least one file, got an empty list")
    for one in uris:
        if not isinstance(one, str | os.PathLike):
            raise TypeError(
                f"uri must be a str, a path or a list of them, got {one!r} of type "
                f"{type(one).__name__}"
            )
    if filesystem is not None and storage_options is not None:
        raise ValueError(
            "filesystem and storage_options exclude each other: give the options to the filesystem"
        )
    if filesystem is None:
        # Relative to here and now: a worker may run elsewhere.
        paths = [os.fspath(one) for one in uris]
        return Locations(
            tuple(path if _has_scheme(path) else os.path.abspath(path) for path in paths),  # noqa: PTH100
            None,
            storage_options,
        )
    if not (isinstance(filesystem, pafs.FileSystem) or hasattr(filesystem, "_strip_protocol")):
        raise TypeError(
            f"filesystem must be one of pyarrow or fsspec, got a {type(filesystem).__name__}"
        )
    return Locations(tuple(os.fspath(one) for one in uris), filesystem)


class Files:
    """The files of a dataset, for the process that makes this object.

    Args:
        locations: Where they are.
    """

    def __init__(self, locations: Locations) -> None:
        self._locations = locations
        self._filesystem = locations.filesystem
        if self._filesystem is not None and os.getpid() != locations.pid:
            # Its connections are another process's.
            self._filesystem = pickle.loads(pickle.dumps(self._filesystem))
        self._roots: dict[str, tuple[Any, str]] = {}

    def __len__(self) -> int:
        return len(self._locations.uris)

    def uri(self, file: int) -> str:
        """The name of a file."""
        return self._locations.uris[file]

    def open(self, file: int) -> Any:
        """Open a file for random access, as a ``pyarrow.NativeFile``.

        Raises:
            OSError: It cannot be read; FileNotFoundError when it is not there.
            ValueError: Neither pyarrow nor fsspec knows such a URI.
            ImportError: fsspec needs a package to read it.
        """
        with self.naming(file):
            return self._opener(self.uri(file))()

    @contextlib.contextmanager
    def naming(self, file: int) -> Iterator[None]:
        """Errors of reading a file name it."""
        uri = self.uri(file)
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", uri) from error
        except PermissionError as error:
            raise PermissionError(errno.EACCES, "this file may not be read", uri) from error
        except OSError as error:
            raise OSError(f"cannot read {uri}: {error}") from error
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(f"cannot read {uri}: {error}") from error

    def _opener(self, uri: str) -> Callable[[], Any]:
        if self._filesystem is not None:
            return _on_filesystem(self._filesystem, uri)
        if self._locations.storage_options is not None:
            return _by_fsspec(uri, self._locations.storage_options)
        if not _has_scheme(uri):
            return partial(pafs.LocalFileSystem().open_input_file, uri)
        # One filesystem for all files of a bucket: to make one may take requests of its own.
        parts = urllib.parse.urlsplit(uri)
        root = parts._replace(path="/", fragment="").geturl()
        try:
            if root not in self._roots:
                self._roots[root] = pafs.FileSystem.from_uri(root)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            return _by_fsspec(uri, {}, error)
        filesystem, base = self._roots[root]
        path = urllib.parse.unquote(parts.path).lstrip("/")
        return partial(filesystem.open_input_file, f"{base.rstrip('/')}/{path}")


def _has_scheme(path: str) -> bool:
    return "://" in path


def _on_filesystem(filesystem: Any, uri: str) -> Callable[[], Any]:
    if isinstance(filesystem, pafs.FileSystem):
        path = uri.split("://", 1)[1] if _has_scheme(uri) else uri
        return partial(filesystem.open_input_file, path)
    return partial(_open_with_fsspec, filesystem, filesystem._strip_protocol(uri))


def _by_fsspec(
    uri: str, options: dict[str, Any], refusal: Exception | None = None
) -> Callable[[], Any]:
    because = f"pyarrow says: {refusal}; " if refusal else ""
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(f"{uri} needs fsspec: pip install fsspec ({because}{error})") from error
    try:
        return partial(_open_with_fsspec, *fsspec.core.url_to_fs(uri, **options))
    except ValueError as error:
        raise ValueError(f"{because}fsspec says: {error}") from error


def _open_with_fsspec(filesystem: Any, path: str) -> Any:
    return pa.PythonFile(_ClosedWhenDropped(filesystem.open(path, "rb")), mode="r")


class _ClosedWhenDropped:
    """A Python file that pyarrow reads, which closes only files of its own kind when dropped."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __del__(self) -> None:
        self._file.close()
