"""`DataLoaderFactory` of `fkat.data.shm`: a loader from generators of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, IterableDataset

from fkat.data import _arguments as arguments

T_co = TypeVar("T_co", covariant=True)


class DataLoaderFactory(Generic[T_co]):
    """Builds a dataset, what samples it, and the loader over both, wherever it is called.

    The generators are classes, functions or ``functools.partial`` of them (as Hydra makes with
    ``_partial_: true``). A map-style dataset needs a sampler or a batch-sampler generator, an
    iterable one takes neither.

    Args:
        dataset_generator: Called with nothing; returns the dataset.
        sampler_generator: Called with the dataset; returns what yields indices.
        batch_sampler_generator: Called with the sampler if there is a generator of one, else with
            the dataset; returns what yields lists of indices.
        dataloader_generator: Called with the dataset and the keywords batch_size, shuffle (always
            False), sampler and batch_sampler; ``DataLoader`` by default. A batch_size that a
            ``partial`` has bound is passed on; otherwise it is 1.

    Raises:
        TypeError: A generator cannot be called.
        ValueError: A batch size is bound, and a batch-sampler generator given.
    """

    def __init__(
        self,
        dataset_generator: Callable[[], Any],
        sampler_generator: Callable[[Any], Any] | None = None,
        batch_sampler_generator: Callable[[Any], Any] | None = None,
        dataloader_generator: Callable[..., Iterable[T_co]] | None = None,
    ) -> None:
        self._dataset_generator = arguments.function("dataset_generator", dataset_generator)
        self._assembly = Assembly[T_co](
            sampler_generator, batch_sampler_generator, dataloader_generator, batch_size=1
        )

    def __call__(self) -> Iterable[T_co]:
        """The loader of microbatches.

        Raises:
            ValueError: The dataset is map-style and there is no generator of a sampler or batch
                sampler; or it is iterable and there is one.
        """
        return self._assembly.loader(self._dataset_generator())


class Assembly(Generic[T_co]):
    """How a loader is put together around a dataset. See `DataLoaderFactory` for the arguments."""

    def __init__(
        self,
        sampler_generator: Callable[[Any], Any] | None,
        batch_sampler_generator: Callable[[Any], Any] | None,
        dataloader_generator: Callable[..., Iterable[T_co]] | None,
        batch_size: int | None,
    ) -> None:
        self._new_sampler = _optional("sampler_generator", sampler_generator)
        self._new_batch_sampler = _optional("batch_sampler_generator", batch_sampler_generator)
        self._new_loader: Callable[..., Iterable[T_co]] = (
            _optional("dataloader_generator", dataloader_generator) or DataLoader
        )
        self._batch_size = self._agreed(batch_size)

    def loader(self, dataset: Any) -> Iterable[T_co]:
        """The loader over ``dataset``."""
        has_generator = bool(self._new_sampler or self._new_batch_sampler)
        if has_generator == _is_iterable(dataset):
            raise ValueError(_advice(dataset, has_generator))
        sampler = self._new_sampler(dataset) if self._new_sampler else None
        batch_sampler = None
        if self._new_batch_sampler:
            batch_sampler = self._new_batch_sampler(dataset if sampler is None else sampler)
            sampler = None  # it is in there: a DataLoader takes one of the two
        return self._new_loader(
            dataset,
            batch_size=self._batch_size,
            shuffle=False,
            sampler=sampler,
            batch_sampler=batch_sampler,
        )

    def _agreed(self, batch_size: int | None) -> int | None:
        """The batch size, of the factory or bound in a partial; it may be given in one place."""
        if batch_size is not None:
            batch_size = arguments.integer("batch_size", batch_size, minimum=1)
        bound = getattr(self._new_loader, "keywords", {}).get("batch_size", batch_size)
        if batch_size not in (1, bound):
            raise ValueError(
                f"batch_size is {batch_size}, but dataloader_generator has bound "
                f"batch_size={bound}: give one of them"
            )
        if self._new_batch_sampler and bound != 1:
            raise ValueError(
                f"the batch sampler decides how large batches are: leave out batch_size={bound}"
            )
        return bound


def _optional(name: str, generator: Callable[..., Any] | None) -> Callable[..., Any] | None:
    return None if generator is None else arguments.function(name, generator)


def _is_iterable(dataset: Any) -> bool:
    return isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")


def _advice(dataset: Any, has_generator: bool) -> str:
    kind = type(dataset).__name__
    if has_generator:
        return (
            f"{kind} is an iterable dataset, which yields samples in its own order: leave out "
            "sampler_generator and batch_sampler_generator"
        )
    return (
        f"{kind} is a map-style dataset: it needs a sampler_generator (such as SequentialSampler) "
        "or a batch_sampler_generator"
    )
