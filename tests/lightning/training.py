"""Small training runs that say what they trained on, and can be cut off anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fkat.data import DataModule
from tests.lightning.loaders import Numbers

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class CutOffError(Exception):
    """The end of a run, on purpose."""


@dataclass(frozen=True)
class Cut:
    """Where a run is saved and ends: at a hook, when ``count`` microbatches are finished.

    With ``fails`` the hook itself fails, and the checkpoint is saved on the exception.
    """

    hook: str
    count: int
    fails: bool = False

    def __str__(self):
        return f"{self.hook}-{self.count}" + ("-fails" if self.fails else "")


@dataclass
class Run:
    """What a run did."""

    ids: list[int] = field(default_factory=list)
    validated: list[int] = field(default_factory=list)  # after so many microbatches
    weight: float = 0.0
    checkpoint: Any = None


class Model(LightningModule):
    """One weight, which every microbatch changes; a microbatch counts once it has a gradient."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.ids = []
        self.validated = []

    def training_step(self, batch, batch_idx):
        self.batch = batch
        return (self.weight * torch.sin(batch.double())).sum() + (self.weight**2).sum()

    def on_after_backward(self):
        self.ids.extend(int(i) for i in self.batch)

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_start(self):
        self.validated.append(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Cutter(Callback):
    """Saves and ends the run at a `Cut`."""

    def __init__(self, cut, path):
        self.cut = cut
        self.path = path

    def on_exception(self, trainer, pl_module, exception):
        if self.cut is not None and self.cut.fails:
            trainer.save_checkpoint(self.path)


def _hook(name):
    def hook(self, trainer, pl_module, *args):
        finished = trainer.fit_loop.epoch_loop.batch_progress.total.processed
        if self.cut is not None and self.cut.hook == name and self.cut.count == finished:
            if not self.cut.fails:
                trainer.save_checkpoint(self.path)
            raise CutOffError

    return hook


HOOKS = (
    "on_train_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_train_batch_end",
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_validation_batch_end",
    "on_validation_end",
    "on_train_end",
)
for _name in HOOKS:
    setattr(Cutter, _name, _hook(_name))


@dataclass(frozen=True)
class Setting:
    """How to train: three epochs of seven microbatches, more or less."""

    sized: bool = True
    validates: bool = False
    accumulate: int = 1
    by_steps: bool = False
    limit: int | None = None
    options: tuple = ()

    def __str__(self):
        words = ["sized" if self.sized else "unsized"]
        words += ["val"] * self.validates + ["steps"] * self.by_steps
        words += [f"acc{self.accumulate}"] * (self.accumulate > 1)
        words += [f"limit{self.limit}"] * (self.limit is not None)
        return "-".join(words + [f"{k}" for k, _ in self.options])

    @property
    def per_epoch(self):
        return self.limit or 7

    def new_loader(self):
        return Numbers(7, self.sized)

    def new_data_module(self, factory=None):
        factories = {"train": factory or self.new_loader}
        if self.validates:
            factories["val"] = lambda: Numbers(2, self.sized)
        return DataModule(factories)

    def new_trainer(self, epochs=3, callbacks=(), **options):
        steps = -(-self.per_epoch // self.accumulate) * epochs
        length = {"max_steps": steps} if self.by_steps else {"max_epochs": epochs}
        return Trainer(
            **QUIET,
            **length,
            accumulate_grad_batches=self.accumulate,
            limit_train_batches=self.limit,
            limit_val_batches=None if self.validates else 0,
            callbacks=list(callbacks),
            **dict(self.options),
            **options,
        )


def train(setting, cut=None, path=None, resume=None, factory=None, model=None, **options):
    """Train from the start or a checkpoint to the end or a cut."""
    model = model or Model()
    run = Run(model.ids, model.validated, checkpoint=path)
    trainer = setting.new_trainer(callbacks=[Cutter(cut, path)], **options)
    data = setting.new_data_module(factory)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
        assert cut is None, f"never came to {cut}"
    except CutOffError:
        assert cut is not None
    run.weight = model.weight.item()
    return run
