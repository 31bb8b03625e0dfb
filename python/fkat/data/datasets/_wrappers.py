"""Datasets around datasets: a function of every sample, and several datasets by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from torch.utils.data import Dataset, IterableDataset

from fkat.data import _arguments as arguments

T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class SizedDataset(Protocol[T_co]):
    """A map-style dataset that knows its length."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: Any) -> T_co:
        """The sample at ``index``."""


class MapDataset(Dataset[U], Generic[T, U]):
    """A map-style dataset whose samples are ``fn`` of another's.

    It has ``set_epoch`` if the other has.

    Args:
        dataset: Has ``__getitem__``; several samples at once are read by its ``__getitems__`` where
            it has one.
        fn: Called with every sample that is read.

    Raises:
        TypeError: ``dataset`` cannot be indexed, or ``fn`` cannot be called.
    """

    def __init__(self, dataset: Any, fn: Callable[[T], U]) -> None:
        self.dataset = _with_method("dataset", dataset, "__getitem__")
        self.fn = arguments.function("fn", fn)
        _forward(self, dataset, "set_epoch")

    def __len__(self) -> int:
        """Number of samples; TypeError when the other dataset does not know."""
        return len(self.dataset)

    def __getitem__(self, index: Any) -> U:
        """``fn`` of the other's sample at ``index``."""
        return self.fn(self.dataset[index])

    def __getitems__(self, indices: Any) -> list[U]:
        """``fn`` of each of the other's samples at ``indices``."""
        return [self.fn(sample) for sample in _get_samples(self.dataset, indices)]


class IterableMapDataset(IterableDataset[U], Generic[T, U]):
    """An iterable dataset whose samples are ``fn`` of another's.

    It has ``state_dict``, ``load_state_dict`` and ``set_epoch``, each if the other has.

    Args:
        dataset: Anything that can be iterated.
        fn: Called with every sample.

    Raises:
        TypeError: ``dataset`` cannot be iterated, or ``fn`` cannot be called.
    """

    def __init__(self, dataset: Iterable[T], fn: Callable[[T], U]) -> None:
        self.dataset: Iterable[T] = _with_method("dataset", dataset, "__iter__")
        self.fn = arguments.function("fn", fn)
        _forward(self, dataset, "state_dict", "load_state_dict", "set_epoch")

    def __iter__(self) -> Iterator[U]:
        """``fn`` of each sample, in the other's order."""
        return map(self.fn, self.dataset)


class DictDataset(Dataset[dict[Any, Any]]):
    """Several map-style datasets of dicts, indexed by (name, index).

    Each sample is a shallow copy of the dataset's, with the name under ``key``. The dataset has
    ``set_epoch`` if one of ``datasets`` has, and passes it on to each that has.

    Args:
        datasets: Datasets by name.
        key: Where in a sample to put the name.

    Raises:
        TypeError: ``datasets`` is no mapping, one of them cannot be indexed, or ``key`` is no str.
        ValueError: ``datasets`` is empty.
    """

    def __init__(self, datasets: Mapping[str, Any], key: str = "dataset") -> None:
        if not isinstance(datasets, Mapping):
            raise TypeError(
                f"datasets must be datasets by name, got a {type(datasets).__name__}: "
                "pass {'name': dataset, ...}"
            )
        if not datasets:
            raise ValueError("datasets must hold at least one dataset, got none")
        if not isinstance(key, str):
            raise TypeError(f"key must be a str, got {key!r} of type {type(key).__name__}")
        self.datasets = {
            name: _with_method(f"datasets[{name!r}]", dataset, "__getitem__")
            for name, dataset in datasets.items()
        }
        self.key = key
        if any(callable(getattr(d, "set_epoch", None)) for d in self.datasets.values()):
            vars(self)["set_epoch"] = self._set_epoch

    def __len__(self) -> int:
        """Number of samples in all; TypeError when a dataset does not know its own."""
        return sum(len(dataset) for dataset in self.datasets.values())

    def __getitem__(self, index: tuple[str, Any]) -> dict[Any, Any]:
        """The sample at an index of the named dataset.

        Raises:
            KeyError: There is no dataset of that name.
            RuntimeError: The sample is not a dict, or has ``key`` already.
        """
        name, position = index
        return self._named(name, self._dataset(name)[position])

    def __getitems__(self, index: tuple[str, Any]) -> list[dict[Any, Any]]:
        """Samples of one dataset, by ``(name, indices)``; raises as ``__getitem__`` does."""
        name, positions = index
        return [self._named(name, s) for s in _get_samples(self._dataset(name), positions)]

    def _dataset(self, name: str) -> Any:
        try:
            return self.datasets[name]
        except KeyError:
            names = ", ".join(map(repr, self.datasets))
            raise KeyError(f"there is no dataset {name!r}, only {names}") from None

    def _named(self, name: str, sample: Any) -> dict[Any, Any]:
        if not isinstance(sample, dict):
            raise RuntimeError(
                f"samples must be dicts to get the name of their dataset, {name!r} gave a "
                f"{type(sample).__name__}: make it a dict (with MapDataset, say)"
            )
        if self.key in sample:
            raise RuntimeError(
                f"a sample of {name!r} has {self.key!r} already, where the name of its dataset "
                f"goes: choose another key, DictDataset(..., key=...)"
            )
        named = copy.copy(sample)  # the dataset may hold on to its own, and give it out again
        named[self.key] = name
        return named

    def _set_epoch(self, epoch: int) -> None:
        for dataset in self.datasets.values():
            set_epoch = getattr(dataset, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)


def _forward(wrapper: object, wrapped: object, *names: str) -> None:
    # Attributes of the instance, not of the class: then hasattr(), and isinstance() of a protocol,
    # tell the truth about what the wrapped dataset can do.
    for name in names:
        method = getattr(wrapped, name, None)
        if callable(method):
            vars(wrapper)[name] = method


def _get_samples(dataset: Any, indices: Any) -> Iterable[Any]:
    many = getattr(dataset, "__getitems__", None)
    samples: Iterable[Any] = many(indices) if many else (dataset[i] for i in indices)
    return samples


def _with_method(name: str, dataset: Any, method: str) -> Any:
    if not hasattr(dataset, method):
        raise TypeError(f"{name} must have {method}, got a {type(dataset).__name__}")
    return dataset
