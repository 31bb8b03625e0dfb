"""An exception of the producer, raised again in the trainer."""

from __future__ import annotations

import os
import pickle
import traceback
from contextlib import suppress
from typing import Any

from fkat.data._core import ERROR_NBYTES


def dump_error(error: BaseException) -> bytes:
    """Pickle an exception with its traceback, in at most ``ERROR_NBYTES`` bytes.

    What cannot be pickled of the exception is left out, and the middle of long texts.
    """
    kind = _kind_of(error)
    name = f"{kind.__module__}.{kind.__qualname__}"
    report = _shortened("".join(traceback.format_exception(error)), ERROR_NBYTES // 4)
    text = f"{_text(error)}\n\nRaised in the producer (pid {os.getpid()}):\n\n{report}"
    state = {key: value for key, value in vars(error).items() if _travels(value)}
    args = tuple(arg for arg in error.args if _travels(arg))
    for candidate in (error, (kind, args, state), (kind, (), state), (kind, (), {})):
        if _travels(candidate):
            dumped = pickle.dumps((pickle.dumps(candidate), name, text))
            if len(dumped) <= ERROR_NBYTES:
                return dumped
    return pickle.dumps((b"", name, text))


def load_error(dumped: bytes) -> Exception:
    """What `dump_error` has packed: the same type, the producer's traceback in its text.

    What is no ``Exception`` (``SystemExit``, ``KeyboardInterrupt``), would end the loop silently
    (``StopIteration``) or is of a type unknown here becomes a ``RuntimeError``.
    """
    pickled, name, text = pickle.loads(dumped)
    try:
        error = pickle.loads(pickled)
        if isinstance(error, tuple):  # its constructor wants something else than ``args``
            kind, args, state = error
            error = kind.__new__(kind, *args)
            error.args = args
            error.__dict__.update(state)
    except Exception:
        error = None
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return with_text(error, text)
    return RuntimeError(f"{name}: {text}")


def _travels(value: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(value))  # some can be dumped but not loaded: see that here
    except Exception:
        return False
    return True


def _text(error: BaseException) -> str:
    try:
        return _shortened(str(error), ERROR_NBYTES // 8)
    except Exception:
        return "(its text could not be made)"


class _Verbatim(str):
    """A string whose repr is itself: KeyError shows the repr of its argument."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def with_text(error: Exception, text: str) -> Exception:
    """The same exception saying ``text``, with every other attribute as it was."""
    if len(error.args) <= 1:
        args, error.args = error.args, (_Verbatim(text),)
        with suppress(Exception):
            if text in str(error):
                return error
        error.args = args
    # Its type makes its text from something else. A subclass of the same name can say more.
    kind = _kind_of(error)
    names = {
        "__str__": lambda _: text,
        "__module__": kind.__module__,
        "__reduce__": _reduce_as_the_users,
        "_fkat_kind": kind,
    }
    speaking = type(kind.__name__, (kind,), names)
    try:
        arguments: Any = error.__reduce__()[1]  # of OSError, more than ``args``: the file names
        copy: Exception = speaking(*arguments)
    except Exception:
        copy = speaking.__new__(speaking, *error.args)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    return copy


def _kind_of(error: BaseException) -> type[Any]:
    """Its type; the user's own if `with_text` has made a subclass of that."""
    return getattr(type(error), "_fkat_kind", type(error))


def _reduce_as_the_users(error: Any) -> Any:
    """Pickled as the type it is derived from, since its own is nowhere to be imported from."""
    kind = error._fkat_kind
    reduced = kind.__reduce__(error)
    return (kind, *reduced[1:]) if reduced[0] is type(error) else reduced


def _shortened(report: str, limit: int) -> str:
    if len(report) <= limit:
        return report
    return f"{report[: limit // 2]}\n... (cut) ...\n{report[-limit // 2 :]}"
