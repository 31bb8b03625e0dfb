"""A stage of the data module as its user describes it: a factory, or arguments of `DataLoader`."""

from __future__ import annotations

import copy
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from multiprocessing import util
from typing import Any

from lightning.fabric.utilities.seed import pl_worker_init_function
from torch.utils.data import DataLoader

STAGES = ("train", "val", "test", "predict")
# Those that each function of the trainer asks for.
STAGES_OF: dict[str | None, tuple[str, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}

_PARAMETERS = inspect.signature(DataLoader).parameters

# What a stage is made from: a factory, or arguments of DataLoader.
Config = dict[str, Any] | Callable[[], Iterable[Any]]


def check_configs(dataloaders: Any) -> dict[str, Config]:
    """The argument ``dataloaders``, in plain containers.

    Raises:
        TypeError: It is no dict, or a value is neither a dict nor callable, or names an argument
            that ``DataLoader`` does not have.
        ValueError: A key is no stage.
    """
    configs = _plain(dataloaders)
    if not isinstance(configs, dict):
        raise TypeError(f"dataloaders must be a dict, got a {type(configs).__name__}")
    for stage, config in configs.items():
        if stage not in STAGES:
            raise ValueError(f"dataloaders has {stage!r}; the stages are {', '.join(STAGES)}")
        if isinstance(config, dict):
            _check_arguments(stage, config)
        elif not callable(config):
            raise TypeError(
                f"dataloaders[{stage!r}] must be a dict of DataLoader arguments or a callable that "
                f"returns a loader, got {config!r} of type {type(config).__name__}"
            )
    return configs


def _check_arguments(stage: str, config: dict[str, Any]) -> None:
    if unknown := [key for key in config if key not in _PARAMETERS]:
        raise TypeError(f"dataloaders[{stage!r}]: DataLoader has no argument {unknown[0]!r}")
    if "dataset" not in config:
        raise TypeError(f"dataloaders[{stage!r}] lacks the argument 'dataset' of DataLoader")


def build(stage: str, config: Config, profiler: Any) -> Iterable[Any]:
    """A new loader of a stage.

    Raises:
        TypeError: The factory returned what cannot be iterated.
    """
    if isinstance(config, dict):
        if profiler is None:
            return DataLoader(**config)
        worker_init_fn = ProfiledWorker(profiler, config.get("worker_init_fn"))
        return DataLoader(**{**config, "worker_init_fn": worker_init_fn})
    loader = config()
    # Not `Iterable`: what has only __getitem__ can be iterated, too.
    if not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        raise TypeError(
            f"the factory dataloaders[{stage!r}] must return an iterable of microbatches, it "
            f"returned a {type(loader).__name__}"
        )
    return loader


class ProfiledWorker:
    """A ``worker_init_fn`` that runs the worker under a profiler of its own.

    Its report is written when the worker ends, its name followed by the worker's number and pid.

    Args:
        profiler: A Lightning profiler. Under fork the worker has a copy; otherwise it must be
            picklable (``PyTorchProfiler`` is not).
        worker_init_fn: The user's, called after the profiler was started; or None.
    """

    def __init__(self, profiler: Any, worker_init_fn: Callable[[int], None] | None) -> None:
        self._profiler = profiler
        self._worker_init_fn = worker_init_fn

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        # While fitting, the trainer's profiler refers to the model, which is no worker's business.
        if hasattr(self._profiler, "_lightning_module"):
            state["_profiler"] = copy.copy(self._profiler)
            state["_profiler"]._lightning_module = None
        return state

    def __call__(self, worker_id: int) -> None:
        """Called by ``DataLoader`` in each worker."""
        profiler = self._profiler
        profiler.filename = f"{profiler.filename or 'fkat.data-worker'}-{worker_id}-{os.getpid()}"
        profiler.start(_ACTION)
        util.Finalize(None, _report, args=(profiler,), exitpriority=0)
        if self._worker_init_fn is not None:
            self._worker_init_fn(worker_id)
        elif int(os.environ.get("PL_SEED_WORKERS", "0")):
            pl_worker_init_function(worker_id)  # Lightning sets it only where there is none


_ACTION = "fkat.data worker"


def _report(profiler: Any) -> None:
    profiler.stop(_ACTION)
    profiler.describe()
    profiler.teardown(stage=None)


def _plain(value: Any) -> Any:
    """Without OmegaConf's containers; the objects in them stay what they are."""
    omegaconf = sys.modules.get("omegaconf")  # whoever made one has imported it
    if omegaconf is not None and isinstance(value, omegaconf.DictConfig | omegaconf.ListConfig):
        value = omegaconf.OmegaConf.to_container(value, resolve=True)
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if type(value) is list:
        return [_plain(item) for item in value]
    return value
