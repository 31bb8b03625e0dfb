"""What user code raises in the producer, the trainer gets: same type, the producer's traceback."""

from __future__ import annotations

from functools import partial

import pytest

from fkat.data import ShmDataLoader
from tests.failing import (
    ANYWHERE,
    BAD,
    FAIL_IN_THE_MIDDLE,
    SIZE,
    BadLength,
    dataset_fails,
    factory_fails,
    failure,
    first_values,
    raise_not_implemented,
    raise_value_error,
    take_all,
)


@pytest.mark.parametrize("fails", ANYWHERE)
def test_its_type_comes_through(fails):
    error = failure(ShmDataLoader(0, partial(fails, raise_value_error)), ValueError)
    assert type(error).__name__ == "ValueError"
    assert "a bad sample" in str(error)


@pytest.mark.parametrize("fails", ANYWHERE)
def test_its_text_has_the_producers_traceback(fails):
    text = str(failure(ShmDataLoader(0, partial(fails, raise_value_error)), ValueError))
    line = raise_value_error.__code__.co_firstlineno + 1
    assert f'failing.py", line {line}, in raise_value_error' in text
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
