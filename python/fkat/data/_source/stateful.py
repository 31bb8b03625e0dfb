"""The state that a user's own loader or dataset keeps, such as torchdata's or Hugging Face's."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch.utils.data import DataLoader

from fkat.data._state import PersistStates, RestoreStates
from fkat.data.errors import StateError


def owner_of(loader: Any) -> Any:
    """What can be asked for the state of an iterable source, and be given it back; or None.

    The loader itself, or the dataset of a ``DataLoader`` that iterates it in its own process: there
    no sample has been read ahead of the microbatch that was delivered last.
    """
    candidates = [loader]
    if isinstance(loader, DataLoader) and loader.num_workers == 0:
        candidates.append(loader.dataset)
    if _forgets_its_buffer(getattr(loader, "dataset", loader)):
        return None
    for candidate in candidates:
        if isinstance(candidate, PersistStates) and isinstance(candidate, RestoreStates):
            return candidate
    return None


def _forgets_its_buffer(dataset: Any) -> bool:
    """Whether it is a stream of Hugging Face that shuffles: its state leaves out what is buffered.

    Documented there ("examples from shuffle buffers are lost"), and seen with datasets 5.2: with a
    buffer of 8 a resume in the middle of 20 rows loses 4. There is no public way to ask.
    """
    step = getattr(dataset, "_ex_iterable", None)
    while step is not None:
        if type(step).__name__.startswith("BufferShuffled") and step.buffer_size > 1:
            return True
        step = getattr(step, "ex_iterable", None)
    return False


def why_not_plain(state: Any) -> str:
    """Why a state cannot be in a checkpoint that is loaded with ``weights_only=True``, or ""."""
    try:
        load_plain(dump_plain(state))
    except Exception as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return ""


def dump_plain(state: Any) -> bytes:
    """A state as bytes: one value, so that a checkpoint's keys do not depend on what is in it."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def load_plain(dumped: bytes) -> Any:
    """What `dump_plain` was given. Runs no code that the bytes name."""
    return torch.load(io.BytesIO(dumped), weights_only=True)


def to_checkpoint(pickled: bytes) -> bytes | None:
    """A state as the producer sent it (pickled by us, in this run) as it goes into a checkpoint.

    None for none: ``torch.load(weights_only=True)`` refuses empty bytes.
    """
    return dump_plain(pickle.loads(pickled)) if pickled else None


def from_checkpoint(dumped: bytes | None) -> bytes:
    """The way back.

    Raises:
        StateError: The bytes are damaged, or hold something that is not plain.
    """
    if dumped is None:
        return b""
    try:
        return pickle.dumps(load_plain(dumped))
    except Exception as error:
        raise StateError(f"the state of the inner loader cannot be read: {error}") from error
