"""Train on everything a loader delivers, under limits; prints what came of it.

Arguments: kind of loader (shm, sharded), start method, number of DataLoader workers, and limits as
NAME=VALUE: names of the resource module, in its units.
"""

import multiprocessing.popen_fork  # noqa: F401  # another user may not read it here
import os
import resource
import sys
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset

from fkat.data import ShardedDataLoader, ShmDataLoader


class Items(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {f"tensor {i}": torch.full((1000,), index) for i in range(8)}


def items(num_workers, shard=""):
    context = "fork" if num_workers else None
    return DataLoader(
        Items(), batch_size=None, num_workers=num_workers, multiprocessing_context=context
    )


def open_loader(kind, method, num_workers):
    make = partial(items, num_workers)
    options = {"multiprocessing_context": method, "max_restarts": 0}
    if kind == "shm":
        return ShmDataLoader(0, make, 4, **options)
    return ShardedDataLoader(0, ["a", "b", "c", "d"], make, 4, 4, **options)


NOBODY = 65534


def main(kind, method, num_workers, *limits):
    for limit in limits:
        if limit.startswith("RLIMIT_NPROC"):
            os.setuid(NOBODY)  # root is exempt
        name, value = limit.split("=")
        what = getattr(resource, name)
        resource.setrlimit(what, (int(value), resource.getrlimit(what)[1]))
    try:
        loader = open_loader(kind, method, int(num_workers))
        seen = [int(tensor[0]) for microbatch in loader for tensor in microbatch.values()]
    except Exception as error:
        print(type(error).__name__, str(error))
        return
    expected = [index for index in range(40) for _ in range(8)]
    print(seen == expected * (1 if kind == "shm" else 4))


if __name__ == "__main__":
    main(*sys.argv[1:])
