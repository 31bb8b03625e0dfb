"""Tensors stay right for as long as anything keeps them, whatever the loader does meanwhile."""

from __future__ import annotations

import functools
import io
import os
import threading
import warnings

import numpy as np
import pytest
import torch

from fkat.data import ShmDataLoader

NUMEL = 1000
MANY = 200  # microbatches: each of the few slots is reused a dozen times


def numbered(count):
    """Microbatches that hold their own number everywhere."""
    for i in range(count):
        yield {"tensor": torch.full((NUMEL,), i), "array": np.full(NUMEL, i)}


def hundred_tensors():
    yield [torch.full((NUMEL,), i, dtype=torch.int64) for i in range(100)]


def sparse():
    for i in range(30):
        yield torch.sparse_coo_tensor([[0, 2]], [float(i), 1.0], (4,))


def new_loader(count=MANY, prefetches=2):
    return ShmDataLoader(0, functools.partial(numbered, count), prefetches)


def move_on(loader):
    """Use every slot of the ring many times over."""
    last = None
    for last in loader:
        assert (last["tensor"] == last["tensor"][0]).all()
    assert last["tensor"][0] == MANY - 1
    assert loader.stats().num_copies == 0, "private copies would not show a slot written too early"


def holds(kept, number):
    return bool((torch.as_tensor(kept) == number).all())


KEPT = {
    "tensor": lambda microbatch: microbatch["tensor"],
    "array": lambda microbatch: microbatch["array"],
    "part of a tensor": lambda microbatch: microbatch["tensor"][7:9],
    "transposed part": lambda microbatch: microbatch["tensor"].view(10, 100).t()[3],
    "numpy view of a tensor": lambda microbatch: microbatch["tensor"].numpy(),
    "tensor view of an array": lambda microbatch: torch.from_numpy(microbatch["array"]),
    "part of an array": lambda microbatch: microbatch["array"][3:5],
    "memoryview": lambda microbatch: np.asarray(memoryview(microbatch["array"])),
    "DLPack of a tensor": lambda microbatch: np.from_dlpack(microbatch["tensor"]),
}


@pytest.mark.parametrize("take", KEPT.values(), ids=KEPT)
def test_what_is_kept_stays_right_while_the_loader_moves_on(take):
    loader = new_loader()
    kept = take(next(loader))
    move_on(loader)
    assert holds(kept, 0)


@pytest.mark.parametrize("take", KEPT.values(), ids=KEPT)
def test_what_is_kept_stays_right_and_writable_after_teardown(take):
    loader = new_loader()
    kept = take(next(loader))
    loader.teardown()
    assert holds(kept, 0)
    kept += 5
    assert holds(kept, 5)


@pytest.mark.parametrize("take", KEPT.values(), ids=KEPT)
def test_what_is_kept_stays_right_and_writable_after_the_loader_is_gone(take):
    loader = new_loader()
    kept = take(next(loader))
    del loader
    assert holds(kept, 0)
    kept += 5
    assert holds(kept, 5)


def test_a_storage_alone_keeps_its_bytes():
    loader = new_loader()
    storage = next(loader)["tensor"].untyped_storage()
    move_on(loader)
    assert set(storage) == {0}


def test_a_tensor_that_autograd_saved_keeps_its_values():
    loader = new_loader()
    next(loader)
    weight = torch.ones(NUMEL, requires_grad=True)
    loss = (weight * next(loader)["tensor"]).sum()
    move_on(loader)
    loss.backward()
    assert holds(weight.grad, 1)


def test_a_tensor_used_by_another_thread_outlives_the_loader():
    loader = new_loader()
    next(loader)
    box, taken, gone, seen = [next(loader)["tensor"]], threading.Event(), threading.Event(), []

    def read():
        tensor = box.pop()
        taken.set()
        gone.wait(60)
        seen.append(holds(tensor, 1))

    reader = threading.Thread(target=read)
    reader.start()
    assert taken.wait(60)
    del loader
    gone.set()
    reader.join()
    assert seen == [True]


def test_every_returned_tensor_can_be_written_to():
    for microbatch in new_loader(20):
        number = int(microbatch["tensor"][0])
        microbatch["tensor"] += 1
        microbatch["array"] *= 2
        assert holds(microbatch["tensor"], number + 1)
        assert holds(microbatch["array"], number * 2)


def test_writing_to_a_microbatch_changes_no_other():
    loader = new_loader()
    first, second = next(loader), next(loader)
    first["tensor"].fill_(-1)
    first["array"].fill(-1)
    assert holds(second["tensor"], 1)
    assert holds(second["array"], 1)
    del first
    for number, microbatch in enumerate(loader):
        assert holds(microbatch["tensor"], number)
        assert holds(microbatch["array"], number)
        microbatch["tensor"].fill_(-1)
        microbatch["array"].fill(-1)


def test_tensors_of_one_microbatch_do_not_share_memory():
    loader = ShmDataLoader(0, hundred_tensors)
    tensors = next(loader)
    tensors[3].fill_(-1)
    assert all(holds(tensor, i) for i, tensor in enumerate(tensors) if i != 3)


def test_slots_are_free_again_when_another_thread_drops_the_tensors():
    loader = new_loader()
    for microbatch in loader:
        box = [microbatch]
        del microbatch
        dropper = threading.Thread(target=box.clear)
        dropper.start()
        dropper.join()
    assert loader.stats().num_copies == 0


def test_dropping_out_of_order_frees_each_slot():
    loader = new_loader()
    oldest, window = next(loader), []
    for microbatch in loader:
        window = [microbatch, *window[:2]]
    assert loader.stats().num_copies == 0
    assert holds(oldest["tensor"], 0)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_tensors_free_their_slots_too():
    loader = ShmDataLoader(0, sparse, 2)
    for number, tensor in enumerate(loader):
        assert tensor.to_dense().tolist() == [number, 0, 1, 0]
    assert loader.stats().num_copies == 0


def test_a_forked_child_that_drops_a_tensor_frees_nothing_of_its_parent():
    loader = new_loader()
    kept = next(loader)
    pid = os.fork()
    if pid == 0:
        kept.clear()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    move_on(loader)
    assert holds(kept["tensor"], 0)
    assert holds(kept["array"], 0)


def test_keeping_every_microbatch_is_right_with_exactly_one_warning():
    loader = new_loader(50)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        everything = list(loader)
    assert [int(microbatch["tensor"][0]) for microbatch in everything] == list(range(50))
    assert all(holds(m[key], i) for i, m in enumerate(everything) for key in m)
    assert len(caught) == 1
    assert "kept alive" in str(caught[0].message)


def test_the_warning_of_copies_points_at_the_loop_of_the_user():
    loader = new_loader(20)
    with pytest.warns(UserWarning, match="kept alive") as caught:
        kept = [microbatch for microbatch in loader]  # noqa: C416
    assert caught[0].filename == __file__
    assert len(kept) == 20


@pytest.mark.filterwarnings("ignore:more than 8 microbatches")
def test_copies_are_counted_and_end_when_the_tensors_are_dropped():
    loader = new_loader(30)
    kept = [next(loader) for _ in range(20)]
    assert loader.stats().num_copies == 12
    kept.clear()
    for _ in loader:
        pass
    assert loader.stats().num_copies == 12


@pytest.mark.filterwarnings("ignore:more than 8 microbatches")
def test_private_copies_are_writable_and_outlive_the_loader():
    loader = new_loader(20)
    everything = list(loader)
    del loader
    for number, microbatch in enumerate(everything):
        microbatch["tensor"] += 1
        microbatch["array"] += 1
        assert holds(microbatch["tensor"], number + 1)
        assert holds(microbatch["array"], number + 1)


def test_saving_one_tensor_of_a_large_microbatch_saves_that_one_alone():
    tensor = next(ShmDataLoader(0, hundred_tensors))[5]
    file = io.BytesIO()
    torch.save(tensor, file)
    assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert tensor.nbytes <= len(file.getvalue()) < 2 * tensor.nbytes


def test_a_tensor_can_be_shared_as_torch_shares_tensors():
    tensor = next(new_loader())["tensor"].share_memory_()
    tensor += 3
    assert holds(tensor, 3)
