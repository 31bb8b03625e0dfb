"""What an exception still knows after its way from the producer to the trainer."""

from __future__ import annotations

import errno
import os
from functools import partial

import pytest

from fkat.data import ShmDataLoader
from fkat.data.errors import ProducerDiedError
from tests.failing import (
    HoldsLockError,
    TokenizerError,
    collate_fails,
    dataset_fails,
    factory_fails,
    failure,
    first_values,
    iterable_fails,
    raise_chained,
    raise_custom_constructor,
    raise_file_not_found,
    raise_generator_exit,
    raise_key_error,
    raise_keyboard_interrupt,
    raise_local_class,
    raise_long_text,
    raise_mute,
    raise_stop_iteration,
    raise_system_exit,
    raise_unpicklable,
    raise_value_error,
)


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
    loader = ShmDataLoader(0, partial(fails, partial(os._exit, code), gone), max_restarts=0)
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
