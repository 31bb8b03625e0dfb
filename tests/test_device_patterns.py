"""The patterns that tests/gpu checks by, tried where every machine can: on the CPU."""

from __future__ import annotations

import pytest
import torch

from fkat.data import ShmDataLoader
from tests.gpu.patterns import DTYPES, Checker, Patterned, leaves_of

CPU = torch.device("cpu")
COUNT = 300
MAX_NBYTES = 1 << 16


def checked(microbatches, count=COUNT, first=0):
    check = Checker(CPU, count, MAX_NBYTES, first)
    for each in microbatches:
        check(each)
    assert check.expected == first + count
    return check.wrong()


def with_one_bit_changed(tensor):
    raw = tensor.contiguous().flatten().view(torch.uint8).clone()
    raw[-1] ^= 1
    return raw.view(tensor.dtype).view(tensor.shape)


def with_its_elements_moved(tensor):
    # As when a slot or a slab was used again too early: the right shape, another's content.
    return tensor.clone().flatten().roll(1).view(tensor.shape)


@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_every_microbatch_of_a_loader_is_as_it_must_be(multiprocessing):
    loader = ShmDataLoader(
        0, Patterned(COUNT, MAX_NBYTES), 4, device=CPU, multiprocessing=multiprocessing
    )
    assert checked(loader) == []


def test_microbatches_of_another_first_number_are_checked_as_such():
    assert checked(Patterned(20, MAX_NBYTES, first=1000), 20, first=1000) == []


@pytest.mark.parametrize("damage", [with_one_bit_changed, with_its_elements_moved])
def test_what_is_wrong_is_found(damage):
    microbatches = list(Patterned(200, MAX_NBYTES))
    wrong = []
    for number, each in enumerate(microbatches):
        tree = each["tree"]
        if type(tree) is torch.Tensor and tree.is_contiguous() and tree.numel() > 16:
            microbatches[number] = {**each, "tree": damage(tree)}
            wrong.append(number)
    assert len(wrong) > 3
    assert checked(microbatches, 200) == wrong


def test_the_sizes_kinds_and_nests_that_are_promised_occur():
    microbatches = list(Patterned(2000, MAX_NBYTES))
    leaves = [leaf for each in microbatches for leaf in leaves_of(each["tree"])]
    sizes = [leaf.numel() * leaf.dtype.itemsize for leaf in leaves]
    assert {leaf.dtype for leaf in leaves} == set(DTYPES)
    assert min(sizes) == 0
    assert max(sizes) > MAX_NBYTES // 2
    assert any(not leaf.is_contiguous() for leaf in leaves)
    kinds = {type(each["tree"]).__name__ for each in microbatches}
    assert {"list", "tuple", "dict", "Pair", "Sample"} <= kinds
