"""The loaders of each stage, from their configuration to their teardown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from fkat.data._lightning import hooks as _hooks
from fkat.data._lightning.dataloader_config import Config, build
from fkat.data._parts import parts


class StageLoaders:
    """Builds loaders, and passes hooks on to those that live.

    Lightning calls ``setup`` before it asks for loaders, so both it and ``set_device`` are kept for
    those to come.

    Args:
        configs: What to build the loader of each stage from.
        profiler: Given a worker of a ``DataLoader`` to run under; or None.
    """

    def __init__(self, configs: dict[str, Config], profiler: Any) -> None:
        self._configs = configs
        self._profiler = profiler
        self._live: dict[str, Any] = {}
        self._prepared: dict[str, Any] = {}  # built by prepare(), not yet asked for
        self._fn: str | None = None
        self._device: torch.device | None = None

    def new(self, stage: str, device: torch.device | None) -> Any:
        """A new loader of a stage, set up for a device; None where the stage has no configuration.

        The stage's earlier loader is torn down. A device that ``set_device`` named goes first.
        """
        if stage in self._live:
            _hooks.call(parts(self._live.pop(stage)), "teardown", self._fn)
        if stage not in self._configs:
            return None
        loader = self._prepared.pop(stage, None)
        if loader is None:
            loader = build(stage, self._configs[stage], self._profiler)
        self._live[stage] = loader
        device = self._device or device
        if device is not None:
            _hooks.call(parts(loader), "set_device", device)
        if self._fn is not None:
            _hooks.call(parts(loader), "setup", self._fn)
        return loader

    def prepare(self, stages: Iterable[str]) -> None:
        """Call ``prepare_data`` on the loaders of some stages, or on what they are made from."""
        for stage in stages:
            config = self._configs.get(stage)
            if isinstance(config, dict):
                _hooks.call(_hooks.parts_of_config(config), "prepare_data")
            elif callable(getattr(config, "prepare_data", None)):
                _hooks.call([config], "prepare_data")
            elif config is not None:
                if stage not in self._prepared:
                    self._prepared[stage] = build(stage, config, self._profiler)
                _hooks.call(parts(self._prepared[stage]), "prepare_data")

    def setup(self, fn: str | None) -> None:
        """Pass ``setup(fn)`` on, now and to the loaders to come."""
        self._fn = fn
        self.call("setup", fn)

    def set_device(self, device: torch.device | None) -> None:
        """Pass ``set_device(device)`` on, now and to the loaders to come."""
        self._device = device
        self.call("set_device", device)

    def call(self, hook: str, *args: Any) -> None:
        """Call a hook on every loader that was asked for, and its parts."""
        _hooks.call(_parts([*self._live.values()]), hook, *args)

    def teardown(self, fn: str | None) -> None:
        """Let go of all loaders, after ``teardown(fn)``."""
        loaders = self._loaders()
        self._live, self._prepared, self._fn = {}, {}, None
        _hooks.call(_parts(loaders), "teardown", fn)

    def on_exception(self, exception: BaseException) -> None:
        """Let go of all loaders, after ``on_exception``; a loader without it is torn down."""
        loaders = self._loaders()
        self._live, self._prepared, self._fn = {}, {}, None
        try:
            _hooks.call(_parts(loaders), "on_exception", exception)
        finally:
            others = [loader for loader in loaders if not hasattr(loader, "on_exception")]
            _hooks.call(others, "teardown", None)

    def _loaders(self) -> list[Any]:
        return [*self._live.values(), *self._prepared.values()]


def _parts(loaders: list[Any]) -> list[Any]:
    return [part for loader in loaders for part in parts(loader)]
