"""`DataModule`: the loaders of a training run, and where training stands in them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities import rank_zero_warn

from fkat.data import _arguments as arguments
from fkat.data import _state
from fkat.data._lightning import trainer as _lightning
from fkat.data._lightning.dataloader_config import STAGES, STAGES_OF, Config, check_configs
from fkat.data._lightning.finished import Finished
from fkat.data._lightning.foreign import as_resumable
from fkat.data._lightning.stage_loaders import StageLoaders

_KIND = "DataModule"
_KEYS: dict[str, _state.Kind] = {
    "world_size": int,
    "num_finished": int,
    "is_at_step_boundary": bool,
    "train": dict,
}


class DataModule(LightningDataModule):
    """Loaders for the stages ``train``, ``val``, ``test`` and ``predict``, built when asked for.

    A checkpoint holds the position of what the trainer has *finished* in the training loader, so a
    resumed run trains on exactly what was left: wherever it was saved, whether or not the loader
    has a length. That holds for the loaders of this package, and within an epoch for others with
    ``state_dict()`` and ``load_state_dict()`` (``StatefulDataLoader``: on one rank, for with more
    Lightning must see it to divide its samples). A plain ``DataLoader`` has no position. The
    microbatches of a half accumulated gradient are finished; the gradient itself Lightning loses,
    and saving there warns.

    Hooks go to each loader and to its ``dataset``, ``sampler`` and ``batch_sampler``, whichever has
    them. Loaders are created late: a new one gets ``set_device`` (the trainer's root device, unless
    `set_device` named another) and ``setup(stage)`` before Lightning sees it.

    Args:
        dataloaders: For each stage either the arguments of a ``DataLoader``, or a factory, called
            once per ``*_dataloader()``. A missing stage has no loader. OmegaConf containers are
            accepted.
        profiler: Each worker of the ``DataLoader`` of a stage given by arguments runs under a copy.
        strict: Passed to the training loader's ``load_state_dict``: False makes a warning of data
            that is not what it was.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``dataloaders`` names an unknown stage.
    """

    def __init__(
        self,
        dataloaders: dict[str, dict[str, Any] | Callable[[], Iterable[Any]]],
        profiler: Profiler | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__()
        self._configs = check_configs(dataloaders)
        self._loaders = StageLoaders(self._configs, arguments.profiler("profiler", profiler))
        self._strict = arguments.boolean("strict", strict)
        self._train: Finished | None = None
        self._to_load: dict[str, Any] = {}  # for the training loader to come
        self._is_trainers = False  # whether the trainer itself goes on from there
        self._at_rest: dict[str, Any] = {}  # of the training loader that was torn down
        for stage in set(STAGES) - set(self._configs):
            name = f"{stage}_dataloader"
            if getattr(type(self), name) is getattr(DataModule, name):  # not a subclass's own
                setattr(self, name, _lightning.NoDataLoader(name))

    def train_dataloader(self) -> Any:
        """A new training loader, which goes on where the checkpoint or the previous one stood."""
        self._rest()
        loader = self._new_loader("train")
        trainer = self.trainer
        if trainer is None or not _lightning.is_fitting(trainer):
            return loader
        # On several ranks Lightning must see a DataLoader, to give it a DistributedSampler.
        resumable = as_resumable(loader, wraps_torch=trainer.world_size == 1)
        if resumable is None:
            return loader
        self._train = Finished(resumable, trainer)
        self._go_on(self._train, trainer)
        _lightning.leave_finished_epoch(trainer)
        self._train.prepare()
        return self._train

    def val_dataloader(self) -> Any:
        """A new validation loader."""
        return self._new_loader("val")

    def test_dataloader(self) -> Any:
        """A new test loader."""
        return self._new_loader("test")

    def predict_dataloader(self) -> Any:
        """A new prediction loader."""
        return self._new_loader("predict")

    def prepare_data(self) -> None:
        """Pass the hook on, in the one process of each node that Lightning calls it in.

        What has the hook must exist, so factories are called here, and what they return is kept for
        the first ``*_dataloader()``. The other ranks wait meanwhile: a factory must not wait for
        them. One that has a ``prepare_data()`` of its own has that called instead.
        """
        fn = None if self.trainer is None else _text(self.trainer.state.fn)
        self._loaders.prepare(STAGES_OF.get(fn, STAGES))

    def setup(self, stage: str) -> None:
        """Pass the hook on: ``fit``, ``validate``, ``test`` or ``predict``."""
        self._loaders.setup(_text(stage))

    def set_device(self, device: torch.device | None) -> None:
        """Move microbatches of present and coming loaders to ``device``, not the trainer's."""
        self._loaders.set_device(arguments.device("device", device))

    def teardown(self, stage: str | None = None) -> None:
        """Tear all loaders down. The training position stays, for a checkpoint saved later."""
        try:
            self._rest()
        finally:
            self._loaders.teardown(_text(stage))

    def on_exception(self, exception: BaseException) -> None:
        """Stop all loaders: Lightning calls no ``teardown`` after an exception."""
        self._to_load = {}
        try:
            with ExitStack() as stack:
                stack.callback(self._loaders.on_exception, exception)
                self._rest()
        except Exception as error:  # must not hide the exception that began it
            warnings.warn(f"while stopping the data loaders: {error!r}", stacklevel=2)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Pass the hook on. Lightning 2 does not call it: the position is in `state_dict`."""
        self._loaders.call("on_save_checkpoint", checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Pass the hook on. Lightning 2 does not call it: see `load_state_dict`."""
        self._loaders.call("on_load_checkpoint", checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """Where the trainer stands in the training loader; empty where nothing knows.

        Keys: ``version``, ``class``, ``world_size``, ``num_finished`` (microbatches since training
        began), ``is_at_step_boundary``, ``train`` (the state of the training loader). Plain types.
        """
        if self._train is None:
            return self._to_load or self._at_rest
        state = self._position(self._train)
        if not state["is_at_step_boundary"]:
            rank_zero_warn(
                "the checkpoint is saved before the optimizer step of its last microbatches, whose "
                "gradients Lightning does not keep; save after multiples of accumulate_grad_batches"
            )
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the training loader go on from a state; of no effect but in ``fit``.

        Raises:
            StateError: It was saved by a newer release, or is damaged.
        """
        trainer = self.trainer
        is_trainers = trainer is not None and _lightning.is_restoring(trainer)
        if not state_dict or (is_trainers and not _lightning.is_fitting(trainer)):
            return
        if not _is_ours(state_dict):
            rank_zero_warn(
                "the checkpoint holds a state of another DataModule, with the keys "
                f"{list(state_dict)}: it is ignored, and the data begins at its beginning"
            )
            return
        _state.check(state_dict, _KIND, _KEYS)
        self._to_load = state_dict
        self._is_trainers = is_trainers
        if self._train is not None and trainer is not None:
            self._go_on(self._train, trainer)
            _lightning.begin_pass_anew(trainer)

    def __str__(self) -> str:
        """The stages and what makes their loaders. Builds and starts nothing."""
        stages = (f"{stage}={_description(c)}" for stage, c in self._configs.items())
        return f"{type(self).__name__}({', '.join(stages)})"

    __repr__ = __str__

    def _new_loader(self, stage: str) -> Any:
        trainer = self.trainer
        if trainer is None:
            return self._loaders.new(stage, None)
        loader = self._loaders.new(stage, trainer.strategy.root_device)
        if stage != "train" and isinstance(loader, _state.Resumable):
            loader.prepare()
        return loader

    def _position(self, train: Finished) -> dict[str, Any]:
        trainer = train.trainer
        num_finished = _lightning.num_finished(trainer)
        tag = (train.serial, num_finished)
        return {
            **_state.header(_KIND),
            "world_size": trainer.world_size,
            "num_finished": num_finished,
            "is_at_step_boundary": _lightning.is_at_step_boundary(trainer),
            "train": _lightning.gather_states(trainer, train.loader, train.position(), tag),
        }

    def _rest(self) -> None:
        """Remember where the training loader stands, which is about to go."""
        train, self._train = self._train, None
        if train is not None:
            self._at_rest = self._position(train)
            train.release()

    def _go_on(self, train: Finished, trainer: Trainer) -> None:
        state, self._to_load = self._to_load, {}
        num_finished = _lightning.num_finished(trainer)
        if state and self._is_trainers:
            num_finished = state["num_finished"]  # the trainer may be about to restore its own
        elif not state and self._at_rest.get("num_finished") == num_finished:
            state = self._at_rest  # the same trainer, with a new loader or in another fit()
        if not state:
            return
        train.restore(state["train"], num_finished, self._strict)
        if state["world_size"] != trainer.world_size and not train.is_elastic:
            rank_zero_warn(
                f"the checkpoint was saved by {state['world_size']} processes and is loaded by "
                f"{trainer.world_size}: each goes on at the same microbatch of its own part of the "
                "data, and the parts are not what they were"
            )


def _is_ours(state_dict: Any) -> bool:
    return isinstance(state_dict, dict) and state_dict.get("class") == _KIND


def _text(stage: Any) -> str | None:
    """Lightning's stages are enumerations, whose text is not "fit" but "TrainerFn.FITTING"."""
    return None if stage is None else str(getattr(stage, "value", stage))


def _description(config: Config) -> str:
    if isinstance(config, dict):
        return f"DataLoader({', '.join(config)})"
    return getattr(config, "__name__", None) or type(config).__name__
