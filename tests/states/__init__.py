"""States as released versions wrote them, one file for each class and format, kept for good.

``python -m tests.states`` writes the files of the present format that are not there yet.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader

from fkat.data import DictDataLoader, ShardedDataLoader, ShmDataLoader
from fkat.data.samplers.strategies import Weighted
from fkat.data.sharded import DistributedDataParallelShardSampler, ShuffledShardSampler

FOLDER = Path(__file__).parent
SHARDS = [f"data/part-{i}.parquet" for i in range(6)]


def samples(length: int) -> DataLoader:
    return DataLoader(range(length), batch_size=2, shuffle=True)


def named(length: int) -> DataLoader:
    return DataLoader([{"id": i} for i in range(length)], batch_size=2, shuffle=True)


def of_shard(shard: str) -> DataLoader:
    number = SHARDS.index(shard)
    return DataLoader(range(100 * number, 100 * number + 5), batch_size=2, shuffle=True)


def shm_loader() -> ShmDataLoader:
    return ShmDataLoader(3, partial(samples, 21), multiprocessing=False)


def dealt_loader() -> ShmDataLoader:
    return ShmDataLoader(3, partial(samples, 43), multiprocessing=False, dp_size=2, dp_rank=0)


def sharded_loader() -> ShardedDataLoader:
    sampler = DistributedDataParallelShardSampler(ShuffledShardSampler(SHARDS, seed=1), 2, 0)
    return ShardedDataLoader(3, sampler, of_shard, multiprocessing=False)


def dict_loader() -> DictDataLoader:
    children = {
        name: ShmDataLoader(3, partial(named, length), multiprocessing=False)
        for name, length in (("a", 21), ("b", 9))
    }
    return DictDataLoader(children, Weighted({"a": 2, "b": 1}, seed=5))


LOADERS = {
    "ShmDataLoader": shm_loader,
    "ShmDataLoader-dealt": dealt_loader,
    "ShardedDataLoader": sharded_loader,
    "DictDataLoader": dict_loader,
}
NUM_FINISHED = 5


def ids(microbatch: object) -> object:
    if isinstance(microbatch, dict):
        return [microbatch["dataset"], microbatch["id"].tolist()]
    return microbatch.tolist()


def rest_of(loader: object) -> list[object]:
    """What is left of the epoch. Not by a for loop, which would begin the next one."""
    found = []
    while (microbatch := next(loader, None)) is not None:
        found.append(ids(microbatch))
    return found
