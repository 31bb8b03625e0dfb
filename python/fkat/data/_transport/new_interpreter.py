"""What a new interpreter for a producer does before anything else.

Run by its path (see `_ProducerName`), not imported: that would import our package, and with it
torch. Only Python's own modules are imported here, and our extension, which needs neither.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any


def begin(core_path: str, trainer_pidfd: int, answers_fd: int, answer_signal: int) -> None:
    """Ignore SIGINT, die with the trainer, and answer with stacks. May be called again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(PermissionError):  # already a session leader
        os.setpgid(0, 0)
    _load("fkat.data._core", core_path).die_with(trainer_pidfd)
    faulthandler.register(answer_signal, answers_fd, all_threads=True, chain=False)


def _load(name: str, path: str) -> ModuleType:
    """The extension at ``path``, under the name by which the package will find it."""
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no extension module", name=name, path=path)
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


arguments: dict[str, Any] = globals()["arguments"]  # by runpy
begin(**arguments)
