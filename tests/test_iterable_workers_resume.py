"""N producers over an iterable dataset: each goes on where it was, and the state says where."""

from __future__ import annotations

from functools import partial

import pytest
from torch.utils.data import DataLoader, get_worker_info

from fkat.data.errors import ResumeMismatchError, StateError
from tests.marks import MANY_WORKERS_AND_KEPT
from tests.streams import (
    LAST_ALONE,
    UNEVEN,
    Split,
    StatefulSplit,
    Unsplit,
    new,
    rest,
    split,
    through_a_file,
)

pytestmark = MANY_WORKERS_AND_KEPT


READ_AGAIN = pytest.mark.filterwarnings("ignore:.*are read again")


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param(partial(split, UNEVEN), marks=READ_AGAIN),
        pytest.param(partial(split, UNEVEN, 2), marks=READ_AGAIN),
        partial(split, UNEVEN, 1, StatefulSplit),  # not read again: that would be a warning
        partial(split, LAST_ALONE, 2, StatefulSplit),
    ],
    ids=["samples", "batches", "samples with a state", "batches with a state"],
)
def test_resumed_anywhere_each_goes_on_with_its_own_stream(factory):
    loader = new(factory)
    states = [loader.state_dict()]
    whole = []
    for microbatch in loader:
        whole.append(microbatch)
        states.append(loader.state_dict())
    second = list(loader)
    loader.teardown()
    for number, state in enumerate(states):
        loader = new(factory)
        loader.load_state_dict(through_a_file(state))
        resumed = rest(loader)
        if number < len(whole):
            assert whole[:number] + resumed == whole, number
            resumed = list(loader)
        elif not resumed:  # a worker without a short batch does not know yet that it has no more
            resumed = list(loader)
        assert resumed == second, number
        loader.teardown()


@READ_AGAIN
def test_the_state_says_how_far_each_worker_is_and_which_have_ended():
    loader = new(partial(split, [1, 2, 4], 1, StatefulSplit))
    found = []
    for _ in loader:
        found.append([entry[:3] for entry in loader.state_dict()["workers"]])
    # Batches of one are all full, so the end of a worker is known when its turn has come.
    assert found == [
        [[1, False, 0], [0, False, 0], [0, False, 0]],
        [[1, False, 0], [1, False, 0], [0, False, 0]],
        [[1, False, 0], [1, False, 0], [1, False, 0]],
        [[1, True, 0], [2, False, 0], [1, False, 0]],
        [[1, True, 0], [2, False, 0], [2, False, 0]],
        [[1, True, 0], [2, True, 0], [3, False, 0]],
        [[1, True, 0], [2, True, 0], [4, False, 0]],
    ]
    assert loader.state_dict()["epoch"] == 1
    assert loader.state_dict()["workers"] is None
    loader.teardown()


def test_a_short_last_batch_ends_its_worker_and_the_last_one_the_epoch():
    loader = new(partial(split, [1, 3], 2))
    found = [loader.state_dict()["workers"] or loader.state_dict()["epoch"] for _ in loader]
    assert found == [
        [[1, True, 0, None], [0, False, 0, None]],
        [[1, True, 0, None], [1, False, 0, None]],
        1,
    ]
    loader.teardown()


def state_after(count, factory, **options):
    loader = new(factory, **options)
    for _ in range(count):
        next(loader)
    state = loader.state_dict()
    loader.teardown()
    return state


def resumed(state, factory, **options):
    loader = new(factory, **options)
    loader.load_state_dict(state)
    return loader


def test_one_word_about_what_is_read_again():
    state = state_after(6, partial(split, [4, 4]))
    loader = resumed(state, partial(split, [4, 4]))
    with pytest.warns(UserWarning, match="read again") as caught:
        rest(loader)
    assert len(caught) == 1
    assert str(caught[0].message).startswith("3 microbatches of each worker of a DataLoader are")
    loader.teardown()


@READ_AGAIN
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("num_now", "options"), [(3, {}), (0, {}), (2, {"multiprocessing": False})]
)
def test_another_number_of_workers_is_an_error(num_now, options, strict):
    state = state_after(3, partial(DataLoader, Unsplit(), num_workers=2))
    loader = new(partial(DataLoader, Unsplit(), num_workers=num_now), **options)
    loader.load_state_dict(state, strict=strict)
    with pytest.raises(ResumeMismatchError, match=r"2 workers stands in epoch 0.*num_workers=2"):
        next(loader)
    loader.teardown()


@pytest.mark.parametrize(("then", "now"), [(0, 2), (2, 0)])
def test_another_number_of_workers_is_another_order(then, now):
    state = state_after(3, partial(DataLoader, Unsplit(), num_workers=then))
    state["workers"] = None  # as if it had been written without
    loader = resumed(state, partial(DataLoader, Unsplit(), num_workers=now))
    with pytest.raises(ResumeMismatchError, match=f"num_workers was {then}, is {now}"):
        next(loader)
    loader.teardown()


@READ_AGAIN
def test_a_state_of_several_ranks_does_not_say_how_far_each_worker_is():
    factory = partial(DataLoader, Unsplit(), num_workers=2)
    state = state_after(2, factory, dp_size=2)
    loader = resumed(state, factory, dp_size=1)
    with pytest.raises(ResumeMismatchError, match=r"saved by several ranks.*num_workers=0"):
        next(loader)
    loader.teardown()


def without_workers(state):
    return {**{key: state[key] for key in state if key != "workers"}, "version": 1}


@READ_AGAIN
def test_a_state_without_workers_is_that_of_workers_in_turn():
    factory = partial(split, [4, 4, 3])
    loader = new(factory)
    whole = list(loader)
    loader.teardown()
    loader = resumed(without_workers(state_after(7, factory)), factory)
    assert rest(loader) == whole[7:]
    loader.teardown()


@READ_AGAIN
def test_a_state_without_workers_of_which_one_had_ended_is_an_error():
    factory = partial(split, UNEVEN)
    loader = resumed(without_workers(state_after(8, factory)), factory)
    with pytest.raises(ResumeMismatchError, match="has 0 microbatches, 3 were finished"):
        rest(loader)
    loader.teardown()


class Told(Split):
    """Tells who begins."""

    def __init__(self, folder):
        super().__init__([1, 4])
        self.folder = folder

    def __iter__(self):
        (self.folder / str(get_worker_info().id)).touch()
        return super().__iter__()


@READ_AGAIN
def test_a_worker_that_had_ended_reads_nothing_again(tmp_path):
    factory = partial(DataLoader, Told(tmp_path), 2, num_workers=2, collate_fn=list)
    state = state_after(2, factory)
    assert [entry[1] for entry in state["workers"]] == [True, False]
    for told in tmp_path.iterdir():
        told.unlink()
    loader = resumed(state, factory)
    assert [[sample[:2] for sample in batch] for batch in rest(loader)] == [[[1, 2], [1, 3]]]
    loader.teardown()
    assert [told.name for told in tmp_path.iterdir()] == ["1"]


BAD = {
    "no list": (3, "of type list or NoneType"),
    "empty": ([], r"workers had \[\] microbatches, 3 in all"),
    "too many in all": ([[2, False, 0, None]] * 2, r"had \[2, 2\] microbatches, 3 in all"),
    "beyond all positions": ([[2**63 - 1, False, 0, None]], "is not"),
    "negative": ([[-1, False, 0, None], [4, False, 0, None]], "is not"),
    "a count that is none": ([[True, False, 0, None], [2, False, 0, None]], "is not"),
    "no truth": ([[3, 0, 0, None]], "is not"),
    "no digest": ([[3, False, 2**32, None]], "is not"),
    "no bytes": ([[3, False, 0, "x"]], "is not"),
    "no entry": ([3], "is not"),
    "too short": ([[3]], "is not"),
    "a damaged state": ([[3, False, 0, b"abc"]], "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_state_with_bad_workers_is_refused(case):
    workers, message = BAD[case]
    loader = new(partial(DataLoader, [1]))
    state = {**loader.state_dict(), "microbatch": 3, "workers": workers}
    with pytest.raises(StateError, match=message):
        loader.load_state_dict(state)
    assert loader.state_dict()["microbatch"] == 0


class Unplain(StatefulSplit):
    def state_dict(self):
        return {"position": object}


def test_a_state_that_cannot_be_in_a_checkpoint_is_told_once():
    loader = new(partial(split, [2, 2], dataset=Unplain))
    with pytest.warns(UserWarning, match="Unplain cannot be in a checkpoint") as caught:
        assert len(list(loader)) == 4
    assert len(caught) == 1
    loader.teardown()
