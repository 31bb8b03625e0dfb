"""An exception of the producer, raised again in the trainer."""

from __future__ import annotations

import os
import pickle
import traceback

from fkat.data._core import ERROR_NBYTES


def dump_error(error: BaseException) -> bytes:
    """Pickle an exception with its traceback, in at most ``ERROR_NBYTES`` bytes.

    The exception object is left out when it cannot be pickled, and the middle of a long traceback.
    """
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    report = "".join(traceback.format_exception(error))
    text = f"{error}\n\nRaised in the producer (pid {os.getpid()}):\n\n{_shortened(report)}"
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)  # some can be dumped but not loaded: better to see that here
    except Exception:
        pickled = b""
    room = ERROR_NBYTES - len(text.encode("utf-8", "replace")) - 1024
    return pickle.dumps((pickled if len(pickled) <= room else b"", name, text))


def load_error(dumped: bytes) -> Exception:
    """What `dump_error` has packed: the same type, the producer's traceback in its text.

    What is no ``Exception`` (``SystemExit``, ``KeyboardInterrupt``), would end the loop silently
    (``StopIteration``) or is of a type unknown here becomes a ``RuntimeError``.
    """
    pickled, name, text = pickle.loads(dumped)
    try:
        error = pickle.loads(pickled)
    except Exception:
        error = None
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return _with_text(error, text)
    return RuntimeError(f"{name}: {text}")


class _Verbatim(str):
    """A string whose repr is itself: KeyError shows the repr of its argument."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _with_text(error: Exception, text: str) -> Exception:
    """The same exception saying ``text``, with every other attribute as it was."""
    if len(error.args) <= 1:
        args, error.args = error.args, (_Verbatim(text),)
        if text in str(error):
            return error
        error.args = args
    # Its type makes its text from something else. A subclass of the same name can say more.
    kind = type(error)
    namespace = {"__str__": lambda _: text, "__module__": kind.__module__}
    speaking = type(kind.__name__, (kind,), namespace)
    copy: Exception = speaking.__new__(speaking, *error.args)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    return copy


def _shortened(report: str, limit: int = ERROR_NBYTES // 4) -> str:
    if len(report) <= limit:
        return report
    return f"{report[: limit // 2]}\n... (cut) ...\n{report[-limit // 2 :]}"
