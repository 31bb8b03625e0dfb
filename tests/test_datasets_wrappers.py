"""Datasets around datasets: MapDataset, IterableMapDataset, DictDataset."""

from __future__ import annotations

import pickle
from collections import OrderedDict

import pytest
from torch.utils.data import DataLoader

from fkat.data import PersistStates, RestoreStates
from fkat.data.datasets import DictDataset, IterableMapDataset, MapDataset, SizedDataset


class Squares:
    """Map-style, one by one."""

    def __init__(self, count=5):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"square": index * index}


class Batched(Squares):
    """Map-style, several at once; knows of epochs."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.epochs = []

    def __getitems__(self, indices):
        self.calls.append(indices)
        return [self[i] for i in indices]

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


class Counter:
    """Iterable, and goes on where it was."""

    def __init__(self):
        self.position = 0
        self.epochs = []

    def __iter__(self):
        while self.position < 5:
            self.position += 1
            yield self.position

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state_dict):
        self.position = state_dict["position"]

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def square(sample):
    return sample["square"]


def double(sample):
    return 2 * sample


def test_a_map_dataset_applies_its_function_to_each_sample():
    dataset = MapDataset(Squares(), square)
    assert [dataset[i] for i in range(len(dataset))] == [0, 1, 4, 9, 16]


def test_a_map_dataset_reads_several_samples_at_once_where_it_can():
    inner = Batched()
    assert MapDataset(inner, square).__getitems__([3, 1]) == [9, 1]
    assert inner.calls == [[3, 1]]


def test_a_map_dataset_reads_several_samples_one_by_one_where_it_must():
    assert MapDataset(Squares(), square).__getitems__([3, 1]) == [9, 1]
    assert MapDataset([1, 2, 3], double).__getitems__([0, 2]) == [2, 6]


def test_a_loader_of_a_map_dataset_reads_a_batch_at_once():
    inner = Batched()
    loader = DataLoader(MapDataset(inner, square), batch_size=2, collate_fn=list)
    assert list(loader) == [[0, 1], [4, 9], [16]]
    assert inner.calls == [[0, 1], [2, 3], [4]]


def test_an_iterable_map_dataset_applies_its_function_in_each_pass():
    dataset = IterableMapDataset([1, 2, 3], double)
    assert [list(dataset), list(dataset)] == [[2, 4, 6]] * 2
    assert [batch.tolist() for batch in DataLoader(dataset, batch_size=2)] == [[2, 4], [6]]


def test_an_iterable_map_dataset_goes_on_where_the_other_was():
    dataset = IterableMapDataset(Counter(), double)
    samples = iter(dataset)
    assert [next(samples), next(samples)] == [2, 4]
    restored = IterableMapDataset(Counter(), double)
    restored.load_state_dict(dataset.state_dict())
    assert list(restored) == [6, 8, 10]


@pytest.mark.parametrize("wrap", [MapDataset, IterableMapDataset])
def test_a_wrapper_tells_the_epoch_to_a_dataset_that_wants_to_know(wrap):
    inner = Batched() if wrap is MapDataset else Counter()
    wrap(wrap(inner, double), double).set_epoch(3)
    assert inner.epochs == [3]


def test_a_dict_dataset_tells_the_epoch_to_each_that_wants_to_know():
    first, third = Batched(), Batched()
    DictDataset({"first": first, "second": Squares(), "third": third}).set_epoch(3)
    assert [first.epochs, third.epochs] == [[3], [3]]


def test_wrappers_claim_only_what_the_other_dataset_can_do():
    plain = IterableMapDataset([1], double)
    stateful = IterableMapDataset(Counter(), double)
    names = ("state_dict", "load_state_dict", "set_epoch")
    assert [hasattr(plain, name) for name in names] == [False] * 3
    assert [hasattr(stateful, name) for name in names] == [True] * 3
    assert [isinstance(stateful, kind) for kind in (PersistStates, RestoreStates)] == [True] * 2
    assert [isinstance(plain, kind) for kind in (PersistStates, RestoreStates)] == [False] * 2
    assert not hasattr(MapDataset(Squares(), square), "set_epoch")
    assert not hasattr(DictDataset({"a": Squares()}), "set_epoch")


def test_wrappers_are_sized_datasets_and_travel():
    for dataset in (MapDataset(Squares(), square), DictDataset({"a": Squares()})):
        assert isinstance(dataset, SizedDataset)
        assert len(pickle.loads(pickle.dumps(dataset))) == 5
    copied = pickle.loads(pickle.dumps(IterableMapDataset(Counter(), double)))
    copied.load_state_dict({"position": 3})
    assert list(copied) == [8, 10]
    assert copied.dataset.position == 5


def test_a_dict_dataset_is_indexed_by_name_and_index():
    dataset = DictDataset({"a": Squares(3), "b": Batched()})
    assert dataset["a", 2] == {"square": 4, "dataset": "a"}
    assert dataset.__getitems__(("b", [3, 1])) == [
        {"square": 9, "dataset": "b"},
        {"square": 1, "dataset": "b"},
    ]
    assert len(dataset) == 8


def test_a_dict_dataset_gives_batches_of_one_dataset_to_a_loader():
    dataset = DictDataset({"a": Squares(3), "b": Squares()}, key="name")
    batches = [("b", [4, 0]), ("a", [1])]
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=list)
    assert list(loader) == [
        [{"square": 16, "name": "b"}, {"square": 0, "name": "b"}],
        [{"square": 1, "name": "a"}],
    ]


def test_a_dict_dataset_leaves_the_users_own_dicts_alone():
    samples = [OrderedDict(x=1)]
    dataset = DictDataset({"a": samples})
    assert [dataset["a", 0], dataset["a", 0]] == [{"x": 1, "dataset": "a"}] * 2
    assert samples == [{"x": 1}]
    assert type(dataset["a", 0]) is OrderedDict


@pytest.mark.parametrize(
    ("samples", "because"), [([[1]], "must be dicts"), ([{"dataset": 1}], "already")]
)
def test_a_sample_that_cannot_be_named_is_an_error(samples, because):
    with pytest.raises(RuntimeError, match=because):
        DictDataset({"a": samples})["a", 0]


def test_an_unknown_name_is_an_error_that_lists_the_names():
    with pytest.raises(KeyError, match="no dataset 'c', only 'a', 'b'"):
        DictDataset({"a": Squares(), "b": Squares()})["c", 0]


@pytest.mark.parametrize(
    ("make", "error", "because"),
    [
        (lambda: MapDataset(3, double), TypeError, "dataset must have __getitem__, got a int"),
        (lambda: MapDataset([], 3), TypeError, "fn must be callable"),
        (lambda: IterableMapDataset(3, double), TypeError, "dataset must have __iter__"),
        (lambda: IterableMapDataset([], None), TypeError, "fn must be callable"),
        (lambda: DictDataset([]), TypeError, "datasets must be datasets by name"),
        (lambda: DictDataset({}), ValueError, "at least one"),
        (lambda: DictDataset({"a": 1}), TypeError, r"datasets\['a'\] must have __getitem__"),
        (lambda: DictDataset({"a": []}, key=1), TypeError, "key must be a str"),
    ],
)
def test_wrong_arguments_fail_at_once_by_name(make, error, because):
    with pytest.raises(error, match=because):
        make()
