"""A factory that returns a ``DataLoader`` which the user has made already."""

from __future__ import annotations

import copy
import os
from typing import Any

from torch.utils.data import DataLoader

from fkat.data._source.generators import generators_of
from fkat.data._source.indices import Part
from fkat.data._source.kind import dealing_of
from fkat.data._source.note import Dealing

_OWN_PARTS = ("sampler", "batch_sampler", "generator")  # of a loader: they change as it is read


class Existing:
    """Returns the loader that it was given: the same each time, wherever it is called.

    What it returns shares dataset, sampler and collate function with that loader, which is itself
    left alone: it keeps its workers, if it has some running, and the state of its generators.

    Args:
        dataloader: What to return. The states of its generators are those of this moment, also for
            a producer that is started later.
    """

    def __init__(self, dataloader: DataLoader[Any]) -> None:
        # A copy that knows of no workers: in a forked producer they would be asked for samples, or
        # ended, and they are the trainer's.
        self.dataloader = copy.copy(dataloader)
        self.dataloader._iterator = None
        self._generators = [copy.deepcopy(generator) for generator in generators_of(dataloader)]
        self._pid = os.getpid()

    def dealing(self, part: Part) -> Dealing:
        """How it is divided among producers."""
        return dealing_of(self.dataloader, part)

    def __call__(self) -> DataLoader[Any]:
        """The loader, for one reader.

        Raises:
            TypeError: The sampler cannot be copied, in the process that reads the loader itself.
        """
        dataloader = copy.copy(self.dataloader)
        if os.getpid() == self._pid:  # a producer has memory of its own, here it is the user's
            dataloader.__dict__.update(_copied_parts(dataloader))
        for generator, then in zip(generators_of(dataloader), self._generators, strict=True):
            generator.set_state(then.get_state())
        return dataloader


def _copied_parts(dataloader: DataLoader[Any]) -> dict[str, Any]:
    parts = {name: getattr(dataloader, name) for name in _OWN_PARTS}
    try:
        # With one memo, for they refer to one another; and to the dataset, which stays the same.
        return copy.deepcopy(parts, {id(dataloader.dataset): dataloader.dataset})
    except Exception as error:
        raise TypeError(
            "with multiprocessing=False the sampler of the DataLoader must be copied, so that "
            f"yours is left as it is, and it cannot be: {error}. Give ShmDataLoader a "
            "dataloader_factory that makes one"
        ) from error
