"""`DataLoaderFactory` of `fkat.data.sharded`: a loader for each shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from fkat.data import _arguments as arguments
from fkat.data._factory import Assembly
from fkat.data._shards.names import Shard

T_co = TypeVar("T_co", covariant=True)


class DataLoaderFactory(Generic[T_co]):
    """Builds the dataset of a shard, what samples it, and the loader over both.

    The generators are classes, functions or ``functools.partial`` of them (as Hydra makes with
    ``_partial_: true``). A map-style dataset needs a sampler or a batch-sampler generator, an
    iterable one takes neither.

    Args:
        dataset_generator: Called with a shard, a str or a list of str; returns its dataset.
        sampler_generator: Called with the dataset; returns what yields indices.
        batch_sampler_generator: Called with the sampler if there is a generator of one, else with
            the dataset; returns what yields lists of indices.
        dataloader_generator: Called with the dataset and the keywords batch_size, shuffle (always
            False), sampler and batch_sampler; ``DataLoader`` by default.
        batch_size: Samples in a microbatch, where no batch sampler decides it; None for samples
            that are microbatches themselves. A ``partial`` may bind it instead.

    Raises:
        TypeError: A generator cannot be called, or ``batch_size`` is no int.
        ValueError: ``batch_size`` is below 1, or given twice (here, bound in
            ``dataloader_generator``, or beside a batch-sampler generator).
    """

    def __init__(
        self,
        dataset_generator: Callable[[Shard], Any],
        sampler_generator: Callable[[Any], Any] | None = None,
        batch_sampler_generator: Callable[[Any], Any] | None = None,
        dataloader_generator: Callable[..., Iterable[T_co]] | None = None,
        batch_size: int | None = 1,
    ) -> None:
        self._dataset_generator = arguments.function("dataset_generator", dataset_generator)
        self._assembly = Assembly[T_co](
            sampler_generator, batch_sampler_generator, dataloader_generator, batch_size
        )

    def __call__(self, shard: Shard) -> Iterable[T_co]:
        """The loader of the shard's microbatches.

        Raises:
            ValueError: The dataset is map-style and there is no generator of a sampler or batch
                sampler; or it is iterable and there is one.
        """
        return self._assembly.loader(self._dataset_generator(shard))
