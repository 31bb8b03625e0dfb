"""What user code raises in the producer, the trainer gets: same type, the producer's traceback."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from fkat.data import ShmDataLoader
from fkat.data.errors import ProducerDiedError

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


@pytest.mark.parametrize("fails", ANYWHERE)
def test_its_type_comes_through(fails):
    error = failure(ShmDataLoader(0, partial(fails, raise_value_error)), ValueError)
    assert type(error).__name__ == "ValueError"
    assert "a bad sample" in str(error)


@pytest.mark.parametrize("fails", ANYWHERE)
def test_its_text_has_the_producers_traceback(fails):
    text = str(failure(ShmDataLoader(0, partial(fails, raise_value_error)), ValueError))
    line = raise_value_error.__code__.co_firstlineno + 1
    assert f'{Path(__file__).name}", line {line}, in raise_value_error' in text
    assert "pid" in text


@pytest.mark.parametrize("fails", FAIL_IN_THE_MIDDLE)
def test_earlier_microbatches_come_first_and_right(fails):
    loader = ShmDataLoader(0, partial(fails, raise_value_error))
    assert [first_values([next(loader)]) for _ in range(BAD)] == [[0], [1], [2]]
    with pytest.raises(ValueError, match="a bad sample"):
        next(loader)


@pytest.mark.parametrize("fails", ANYWHERE)
def test_the_next_pass_succeeds_once_the_cause_is_gone(fails, tmp_path):
    gone = tmp_path / "gone"
    loader = ShmDataLoader(0, partial(fails, raise_value_error, gone))
    failure(loader, ValueError)
    gone.touch()
    assert first_values(loader) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("fails", ANYWHERE)
def test_the_next_pass_fails_alike_while_the_cause_remains(fails):
    loader = ShmDataLoader(0, partial(fails, raise_value_error))
    for _ in range(3):
        failure(loader, ValueError)


@pytest.mark.parametrize("fails", ANYWHERE)
@pytest.mark.parametrize("multiprocessing", [True, False])
def test_next_after_a_failure_is_an_error_and_no_silent_end(fails, multiprocessing):
    factory = partial(fails, raise_value_error)
    loader = ShmDataLoader(0, factory, multiprocessing=multiprocessing)
    with pytest.raises(ValueError, match="a bad sample"):
        take_all(loader)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="failed"):
            next(loader)


@pytest.mark.parametrize("fails", ANYWHERE)
def test_it_comes_through_on_demand(fails):
    loader = ShmDataLoader(0, partial(fails, raise_value_error), num_microbatch_prefetches=0)
    failure(loader, ValueError)


@pytest.mark.parametrize("fails", ANYWHERE)
def test_it_comes_through_in_this_process(fails):
    factory = partial(fails, raise_value_error)
    failure(ShmDataLoader(0, factory, multiprocessing=False), ValueError)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_it_comes_through_from_a_started_interpreter(method):
    factory = partial(dataset_fails, raise_value_error)
    error = failure(ShmDataLoader(0, factory, multiprocessing_context=method), ValueError)
    assert "in raise_value_error" in str(error)


@pytest.mark.parametrize("multiprocessing", [True, False])
def test_len_fails_with_what_its_length_raised(multiprocessing, tmp_path):
    gone = tmp_path / "gone"
    factory = partial(BadLength, raise_value_error, gone)
    loader = ShmDataLoader(0, factory, multiprocessing=multiprocessing)
    with pytest.raises(ValueError, match="a bad sample"):
        len(loader)
    gone.touch()
    assert len(loader) == SIZE


@pytest.mark.parametrize("multiprocessing", [True, False])
def test_iterating_asks_for_no_length(multiprocessing):
    # Many a stream has a __len__ that raises NotImplementedError; DataLoader iterates it.
    factory = partial(BadLength, raise_not_implemented)
    loader = ShmDataLoader(0, factory, multiprocessing=multiprocessing)
    assert first_values(loader) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("multiprocessing", [True, False])
def test_len_fails_with_what_the_factory_raised(multiprocessing, tmp_path):
    gone = tmp_path / "gone"
    factory = partial(factory_fails, raise_value_error, gone)
    loader = ShmDataLoader(0, factory, multiprocessing=multiprocessing)
    with pytest.raises(ValueError, match="a bad sample"):
        len(loader)
    gone.touch()
    assert len(loader) == SIZE
    assert first_values(loader) == [0, 1, 2, 3, 4, 5]


def test_a_factory_that_returns_no_iterable_is_a_type_error():
    error = failure(ShmDataLoader(0, partial(int, 7)), TypeError)
    assert "dataloader_factory" in str(error)


def test_the_text_of_a_key_error_has_lines():
    error = failure(ShmDataLoader(0, partial(dataset_fails, raise_key_error)), KeyError)
    assert "tokens" in str(error)
    assert "\\n" not in str(error)
    assert "in raise_key_error" in str(error)


def test_an_os_error_keeps_its_number_and_file():
    factory = partial(dataset_fails, raise_file_not_found)
    error = failure(ShmDataLoader(0, factory), FileNotFoundError)
    assert error.errno == errno.ENOENT
    assert error.filename == "shard-07.parquet"
    assert "in raise_file_not_found" in str(error)


def test_a_custom_constructor_does_not_hide_the_type():
    factory = partial(dataset_fails, raise_custom_constructor)
    error = failure(ShmDataLoader(0, factory), TokenizerError)
    assert error.offset == 7
    assert "in raise_custom_constructor" in str(error)


def test_an_exception_that_cannot_be_pickled_keeps_its_type():
    error = failure(ShmDataLoader(0, partial(dataset_fails, raise_unpicklable)), HoldsLockError)
    assert "the shard is locked" in str(error)
    assert "in raise_unpicklable" in str(error)


def test_an_exception_of_a_local_class_is_named():
    error = failure(ShmDataLoader(0, partial(dataset_fails, raise_local_class)), RuntimeError)
    assert "LocalError" in str(error)
    assert "of a local class" in str(error)
    assert "in raise_local_class" in str(error)


def test_an_exception_whose_text_fails_is_named():
    error = failure(ShmDataLoader(0, partial(dataset_fails, raise_mute)))
    assert not isinstance(error, ProducerDiedError)
    assert "MuteError" in str(error) or type(error).__name__ == "MuteError"


def test_a_long_text_is_shortened_and_keeps_both_ends():
    error = failure(ShmDataLoader(0, partial(dataset_fails, raise_long_text)), ValueError)
    assert "begin xxx" in str(error)
    assert "in raise_long_text" in str(error)
    assert len(str(error)) < 100_000


def test_the_cause_of_an_exception_is_shown():
    error = failure(ShmDataLoader(0, partial(dataset_fails, raise_chained)), ValueError)
    assert "KeyError" in str(error)
    assert "in raise_key_error" in str(error)


@pytest.mark.parametrize("fails", [dataset_fails, iterable_fails, collate_fails, factory_fails])
@pytest.mark.parametrize(
    ("trouble", "name"),
    [
        (raise_system_exit, "SystemExit"),
        (raise_keyboard_interrupt, "KeyboardInterrupt"),
        (raise_stop_iteration, "StopIteration"),
        (raise_generator_exit, "GeneratorExit"),
    ],
)
def test_what_would_end_a_program_or_a_loop_is_an_error_that_names_it(fails, trouble, name):
    error = failure(ShmDataLoader(0, partial(fails, trouble)), RuntimeError)
    assert name in str(error)
    assert f"in {trouble.__name__}" in str(error)


@pytest.mark.parametrize("fails", [dataset_fails, iterable_fails, collate_fails, factory_fails])
def test_stop_iteration_is_no_silent_end_in_this_process(fails):
    factory = partial(fails, raise_stop_iteration)
    failure(ShmDataLoader(0, factory, multiprocessing=False), RuntimeError)


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("fails", [dataset_fails, factory_fails])
def test_a_hard_exit_is_an_error_with_its_code(fails, code, tmp_path):
    gone = tmp_path / "gone"
    loader = ShmDataLoader(0, partial(fails, partial(os._exit, code), gone))
    error = failure(loader, ProducerDiedError)
    assert error.exit_code == code
    assert f"exited with code {code}" in str(error)
    gone.touch()
    assert first_values(loader) == [0, 1, 2, 3, 4, 5]


def test_an_exception_caught_in_the_trainer_keeps_no_process(tmp_path):
    errors = []
    for _ in range(3):
        loader = ShmDataLoader(0, partial(dataset_fails, raise_value_error))
        errors.append(failure(loader, ValueError))
    assert len(errors) == 3  # and nothing_left_behind looks at the processes
