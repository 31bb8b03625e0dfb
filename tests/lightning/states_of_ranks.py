"""One of two ranks: rank 0 gathers what rank 1 sends, at first a state. Prints what came of it."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import distributed

from fkat.data._lightning import trainer as _lightning
from fkat.data._source.stateful import dump_plain

STATE = {"version": 1, "place": 7, "inner": b"\x00\xff", "positions": [1, None], "rng": {3: 0.5}}


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


class Merging:
    @staticmethod
    def merge_state_dicts(states):
        return {"merged": list(states)}


def state_of(rank):
    return {**STATE, "rank": rank, "weights": torch.arange(3)}


def gather(rank, tag):
    trainer = SimpleNamespace(world_size=2, global_rank=rank, interrupted=False)
    return _lightning.gather_states(trainer, Merging, state_of(rank), tag)


def sent_instead(tag, bomb):
    """What rank 1 may send that is no state."""
    return {
        "a pickle bomb": pickle.dumps((tag, bomb)),
        "a bomb in a saved state": dump_plain((tag, {**STATE, "inner": bomb})),
        "no state": dump_plain((tag, 5)),
        "no tag": dump_plain(5),
        "nothing": b"",
        "noise": b"noise",
    }


def main(rank, folder):
    distributed.init_process_group("gloo", f"file://{folder}/group", world_size=2, rank=rank)
    outcomes = {"a state": str(gather(rank, (0, 12)))}
    distributed.barrier()  # rank 1 does not wait for it to be read
    for kind, dumped in sent_instead((0, 13), Bomb(folder / "exploded")).items():
        if rank == 1:
            _lightning._store().set(_lightning._key(1), dumped)
        distributed.barrier()
        if rank == 0:
            try:
                outcomes[kind] = str(gather(rank, (0, 13)))
            except Exception as error:
                outcomes[kind] = f"{type(error).__name__}: {error}"
        distributed.barrier()
    print(json.dumps(outcomes))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
