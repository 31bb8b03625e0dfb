"""A /dev/shm of 64 MB, as Docker has it, or one that cannot be written: the ring needs neither."""

from __future__ import annotations

import subprocess

import pytest

MOVES_160_MIB = """
import os
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from fkat.data import ShmDataLoader

class Blobs(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.full((8 << 20,), index, dtype=torch.uint8)

def factory():
    return DataLoader(Blobs(), batch_size=None)

if __name__ == "__main__":
    shm = os.statvfs("/dev/shm")
    assert shm.f_blocks * shm.f_frsize <= 64 << 20
    loader = ShmDataLoader(
        0, factory, 16, multiprocessing_context=sys.argv[1], memory_budget_nbytes=1 << 28
    )
    print([int(blob.unique()) for blob in loader] == list(range(20)))
"""


def in_namespace(mount_options: str) -> tuple[str, ...]:
    """A command that runs another one with a /dev/shm of its own, or a skip."""
    mount = f"mount -t tmpfs -o {mount_options} tmpfs /dev/shm"
    prefix = ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    try:
        probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs util-linux's unshare")
    if probe.returncode != 0:
        pytest.skip(f"cannot mount in a private namespace here: {probe.stderr.strip()}")
    return prefix


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("mount_options", ["size=64m", "size=64m,ro"], ids=["64_mb", "read_only"])
def test_it_works(start_trainer, mount_options, method):
    prefix = in_namespace(mount_options)
    trainer = start_trainer(MOVES_160_MIB, method, prefix=prefix)
    assert trainer.finish() == (0, "True\n", "")
