"""Loaders whose user code fails, each in a place and way of its own."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from fkat.data import ShmDataLoader

SIZE, BAD = 6, 3


def raise_value_error() -> NoReturn:
    raise ValueError("a bad sample")


def raise_not_implemented() -> NoReturn:
    raise NotImplementedError


def raise_key_error() -> NoReturn:
    raise KeyError("tokens")


def raise_file_not_found() -> NoReturn:
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", "shard-07.parquet")


class TokenizerError(Exception):
    """Its constructor cannot be called with what ends up in ``args``."""

    def __init__(self, *, text: str, offset: int) -> None:
        super().__init__(f"cannot tokenize {text!r} at {offset}")
        self.offset = offset


def raise_custom_constructor() -> NoReturn:
    raise TokenizerError(text="\u2603", offset=7)


class HoldsLockError(Exception):
    """Cannot be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


def raise_unpicklable() -> NoReturn:
    raise HoldsLockError("the shard is locked")


def raise_local_class() -> NoReturn:
    class LocalError(Exception):
        pass

    raise LocalError("of a local class")


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raise_mute() -> NoReturn:
    raise MuteError


def raise_long_text() -> NoReturn:
    raise ValueError("begin " + "x" * 200_000 + " end")


def raise_chained() -> NoReturn:
    try:
        raise_key_error()
    except KeyError as error:
        raise ValueError("a bad sample") from error


def raise_system_exit() -> NoReturn:
    raise SystemExit(4)


def raise_keyboard_interrupt() -> NoReturn:
    raise KeyboardInterrupt


def raise_stop_iteration() -> NoReturn:
    raise StopIteration("early")


def raise_generator_exit() -> NoReturn:
    raise GeneratorExit


def maybe(trouble: Callable[[], Any], gone: Path | None) -> None:
    if gone is None or not gone.exists():
        trouble()


class BadSample(Dataset):
    """``SIZE`` tensors, with trouble at ``BAD`` until the file ``gone`` exists."""

    def __init__(self, trouble: Callable[[], Any], gone: Path | None = None) -> None:
        self.trouble, self.gone = trouble, gone

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == BAD:
            maybe(self.trouble, self.gone)
        return torch.full((3,), index)


class BadStream(IterableDataset):
    def __init__(self, trouble: Callable[[], Any], gone: Path | None = None) -> None:
        self.trouble, self.gone = trouble, gone

    def __iter__(self) -> Iterator[torch.Tensor]:
        for index in range(SIZE):
            if index == BAD:
                maybe(self.trouble, self.gone)
            yield torch.full((3,), index)


class BadSampler(Sampler):
    def __init__(self, trouble: Callable[[], Any], gone: Path | None = None) -> None:
        self.trouble, self.gone = trouble, gone

    def __iter__(self) -> Iterator[int]:
        for index in range(SIZE):
            if index == BAD:
                maybe(self.trouble, self.gone)
            yield index

    def __len__(self) -> int:
        return SIZE


class BadLength:
    """An iterable that works, of a length that does not."""

    def __init__(self, trouble: Callable[[], Any], gone: Path | None = None) -> None:
        self.trouble, self.gone = trouble, gone

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (torch.full((3,), index) for index in range(SIZE))

    def __len__(self) -> int:
        maybe(self.trouble, self.gone)
        return SIZE


def good() -> None:
    pass


def bad_collate(trouble: Callable[[], Any], gone: Path | None, sample: torch.Tensor) -> Any:
    if sample[0] == BAD:
        maybe(trouble, gone)
    return sample


def dataset_fails(trouble: Callable[[], Any], gone: Path | None = None) -> Iterable[Any]:
    return DataLoader(BadSample(trouble, gone), batch_size=None)


def worker_fails(trouble: Callable[[], Any], gone: Path | None = None) -> Iterable[Any]:
    return DataLoader(BadSample(trouble, gone), batch_size=None, num_workers=1)


def iterable_dataset_fails(trouble: Callable[[], Any], gone: Path | None = None) -> Iterable[Any]:
    return DataLoader(BadStream(trouble, gone), batch_size=None)


def iterable_fails(trouble: Callable[[], Any], gone: Path | None = None) -> Iterable[Any]:
    return BadStream(trouble, gone)


def sampler_fails(trouble: Callable[[], Any], gone: Path | None = None) -> Iterable[Any]:
    return DataLoader(BadSample(good), batch_size=None, sampler=BadSampler(trouble, gone))


def batch_sampler_fails(trouble: Callable[[], Any], gone: Path | None = None) -> Iterable[Any]:
    batches = [[index] for index in range(SIZE)]

    def batch_sampler() -> Iterator[list[int]]:
        for batch in batches:
            if batch == [BAD]:
                maybe(trouble, gone)
            yield batch

    class Batches:
        def __iter__(self) -> Iterator[list[int]]:
            return batch_sampler()

    return DataLoader(BadSample(good), batch_sampler=Batches())


def collate_fails(trouble: Callable[[], Any], gone: Path | None = None) -> Iterable[Any]:
    collate = partial(bad_collate, trouble, gone)
    return DataLoader(BadSample(good), batch_size=None, collate_fn=collate)


def factory_fails(trouble: Callable[[], Any], gone: Path | None = None) -> Iterable[Any]:
    maybe(trouble, gone)
    return DataLoader(BadSample(good), batch_size=None)


FAIL_IN_THE_MIDDLE = (
    dataset_fails,
    worker_fails,
    iterable_dataset_fails,
    iterable_fails,
    sampler_fails,
    batch_sampler_fails,
    collate_fails,
)
ANYWHERE = (*FAIL_IN_THE_MIDDLE, factory_fails)


def first_values(microbatches: Iterable[torch.Tensor]) -> list[int]:
    return [int(microbatch.flatten()[0]) for microbatch in microbatches]


def take_all(loader: ShmDataLoader) -> None:
    """Without ``iter()``, and without the ``len()`` that ``list()`` asks for."""
    while next(loader, None) is not None:
        pass


def failure(loader: ShmDataLoader, kind: type[BaseException] = Exception) -> BaseException:
    with pytest.raises(kind) as caught:
        list(loader)
    error = caught.value
    caught.value.__traceback__ = None  # it would keep the loader
    return error
