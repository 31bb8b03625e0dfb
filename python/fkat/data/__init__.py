"""Data loaders that a GPU does not wait for."""

from typing import TYPE_CHECKING, Any

from fkat.data._state import PersistStates, RestoreStates
from fkat.data.shm import ShmDataLoader

if TYPE_CHECKING:
    from fkat.data._build import BuildInfo, build_info
    from fkat.data.data_module import DataModule
    from fkat.data.dict import DictDataLoader
    from fkat.data.sharded import ShardedDataLoader

__all__ = [
    "BuildInfo",
    "DataModule",
    "DictDataLoader",
    "PersistStates",
    "RestoreStates",
    "ShardedDataLoader",
    "ShmDataLoader",
    "build_info",
]

# Imported when first asked for: Lightning alone takes seconds, and a producer needs none of it.
_LAZY = {
    "BuildInfo": "fkat.data._build",
    "DataModule": "fkat.data.data_module",
    "DictDataLoader": "fkat.data.dict",
    "ShardedDataLoader": "fkat.data.sharded",
    "build_info": "fkat.data._build",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
