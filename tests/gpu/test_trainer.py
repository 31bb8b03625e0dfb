"""Lightning's trainer on a GPU: the data module's loaders deliver where the model is."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from fkat.data import DataModule, ShmDataLoader
from fkat.data.sharded import ShardedDataLoader
from tests.gpu.work import Ramps, num_wrong
from tests.lightning.training import QUIET, Cut, CutOffError, Cutter

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

COUNT = 40
EPOCHS = 3


class Model(LightningModule):
    """Keeps the number of each microbatch, and counts wrong elements, all on the device."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.arrived_on, self.numbers, self.wrong = [], [], []

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.arrived_on.append(batch["x"].device)  # before Lightning would move it
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def training_step(self, batch, batch_idx):
        self.numbers.append(batch["number"])
        self.wrong.append(num_wrong(batch))
        return (self.weight * batch["x"][:10].float()).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def single():
    return ShmDataLoader(0, Ramps(COUNT), 3)


def shard(name):
    return Ramps(10, first=int(name))


def sharded():
    return ShardedDataLoader(0, ["0", "10", "20", "30"], shard, 2, 3)


@pytest.mark.parametrize("factory", [single, sharded])
def test_every_microbatch_of_a_run_once_and_in_order(gpu, factory):
    model = Model()
    options = {**QUIET, "accelerator": "gpu", "devices": [gpu.index]}
    Trainer(**options, max_epochs=EPOCHS).fit(model, datamodule=DataModule({"train": factory}))
    assert [int(number) for number in model.numbers] == list(range(COUNT)) * EPOCHS
    assert [int(count) for count in model.wrong] == [0] * COUNT * EPOCHS
    assert model.arrived_on == [gpu] * COUNT * EPOCHS


def test_a_run_that_is_cut_off_and_resumed_trains_on_the_rest(gpu, tmp_path):
    options = {**QUIET, "accelerator": "gpu", "devices": [gpu.index], "max_epochs": 1}
    path = tmp_path / "half.ckpt"
    first, second = Model(), Model()
    cutter = Cutter(Cut("on_train_batch_end", COUNT // 2), path)
    with pytest.raises(CutOffError):
        Trainer(**options, callbacks=[cutter]).fit(first, datamodule=DataModule({"train": single}))
    data = DataModule({"train": single})
    Trainer(**options).fit(second, datamodule=data, ckpt_path=path, weights_only=True)
    numbers = [int(number) for number in first.numbers + second.numbers]
    assert numbers == list(range(COUNT))
    assert [int(count) for count in first.wrong + second.wrong] == [0] * COUNT
