"""Shards of numbered samples: "data/s-3-7" is shard 3 and holds samples 300 to 306."""

from __future__ import annotations

import io
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fkat.data.sharded import ShardedDataLoader, ShuffledShardSampler

READ_AGAIN = "ignore:.*read again:UserWarning"
LENGTHS = [5, 0, 4, 7, 3, 2, 6, 1]  # uneven, and one shard is empty


def names_of(lengths, folder="data"):
    """A shard of so many samples each."""
    return [f"{folder}/s-{number}-{length}" for number, length in enumerate(lengths)]


def ids_of(shard):
    """The samples of a shard, which may be a list of several."""
    names = [shard] if isinstance(shard, str) else shard
    parsed = [name.rpartition("/")[2].split("-") for name in names]
    return [100 * int(number) + i for _, number, length in parsed for i in range(int(length))]


def all_ids(lengths):
    return [i for name in names_of(lengths) for i in ids_of(name)]


def augmented(sample_id):
    """A sample, and what the three global generators say."""
    draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]
    return sample_id, torch.tensor(draws, dtype=torch.float64)


def write_line(log, text):
    """Append to a file that several processes write to."""
    if log is not None:
        fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{text}\n".encode())
        os.close(fd)


def lines_of(log):
    return Path(log).read_text().splitlines() if Path(log).exists() else []


class Samples(Dataset):
    """A shard whose samples can be asked for by number."""

    def __init__(self, shard, log):
        self.ids = ids_of(shard)
        self.log = log

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        write_line(self.log, f"read {self.ids[index]}")
        return augmented(self.ids[index])


class Stream(IterableDataset):
    """A shard that can only be read from its beginning."""

    def __init__(self, shard, log):
        self.ids = ids_of(shard)
        self.log = log

    def __iter__(self):
        for i in self.ids:
            write_line(self.log, f"read {i}")
            yield augmented(i)


class StatefulStream(IterableDataset):
    """A shard that knows where it is."""

    def __init__(self, shard, log):
        self.ids = ids_of(shard)
        self.log = log
        self.position = 0

    def __iter__(self):
        while self.position < len(self.ids):
            self.position += 1
            write_line(self.log, f"read {self.ids[self.position - 1]}")
            yield augmented(self.ids[self.position - 1])
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state_dict):
        self.position = state_dict["position"]


KINDS = {"map": Samples, "stream": Stream, "stateful": StatefulStream}


@dataclass(frozen=True)
class OpenShard:
    """A factory; can be pickled. Only shards of the kind "map" are shuffled."""

    kind: str = "map"
    batch_size: int = 2
    shuffle: bool = True
    num_workers: int = 0
    log: str | None = None

    def __call__(self, shard):
        write_line(self.log, f"open {shard}")
        shuffle = self.shuffle if self.kind == "map" else None
        dataset = KINDS[self.kind](shard, self.log)
        return DataLoader(dataset, self.batch_size, shuffle, num_workers=self.num_workers)


def shuffled(lengths=LENGTHS):
    return ShuffledShardSampler(names_of(lengths), seed=3)


def new_loader(sampler=None, factory=None, num_shard_prefetches=0, window=3, seed=7, **options):
    """A loader in this process, unless ``multiprocessing=True``."""
    options = {"multiprocessing": False, **options}
    sampler = shuffled() if sampler is None else sampler
    return ShardedDataLoader(
        seed, sampler, factory or OpenShard(), num_shard_prefetches, window, **options
    )


def plain(microbatch):
    """Its ids and its random numbers, to compare."""
    ids, draws = microbatch
    return ids.tolist(), draws.tolist()


def epochs_of(loader, count=2):
    return [[plain(microbatch) for microbatch in loader] for _ in range(count)]


def take(loader, count):
    """So many microbatches, over the ends of epochs."""
    taken = []
    while len(taken) < count:
        for microbatch in loader:
            taken.append(plain(microbatch))
            if len(taken) == count:
                break
    return taken


def ids_in(microbatches):
    return [i for ids, _ in microbatches for i in ids]


def through_a_checkpoint(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def indices_of(state):
    return [int(index) for index in state["all_rank_indices"]]
