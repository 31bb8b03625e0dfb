"""SIGTERM in a wait for data: it ends there and then, and its handlers are as they were."""

from __future__ import annotations

import os
import signal

import pytest

SCRIPT = """
import signal
import sys
import time
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset
from fkat.data import DataModule, ShmDataLoader

class Items(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 3:
            print("made on demand", flush=True)
            time.sleep(1_000_000)
        return torch.ones(4)

def items():
    return DataLoader(Items(), batch_size=None)

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

def handlers():
    return {number: signal.getsignal(number) for number in signal.valid_signals()}

if __name__ == "__main__":
    loader = lambda: ShmDataLoader(0, items, 0, multiprocessing_context=sys.argv[1])
    quiet = dict.fromkeys(
        ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
    )
    trainer = Trainer(max_epochs=1, accelerator="cpu", **quiet)
    # Lightning runs a handler of the user's after its own.
    signal.signal(signal.SIGTERM, lambda *_: print("handled", trainer.received_sigterm, flush=True))
    before = handlers()
    try:
        trainer.fit(Model(), DataModule({"train": loader}))
    except SystemExit as end:
        print(type(end).__name__, "after", trainer.global_step)
    print(handlers() == before)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_trainer_ends_while_it_waits(start_trainer, tmp_path, method):
    trainer = start_trainer(SCRIPT, method)
    assert trainer.read_line() == "made on demand"
    os.kill(trainer.pid, signal.SIGTERM)
    assert trainer.read_line() == "handled True"
    code, output, _ = trainer.finish()
    assert (code, output) == (0, "SIGTERMException after 3\nTrue\n")
