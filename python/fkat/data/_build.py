"""What the installed package is, for a bug report."""

from __future__ import annotations

import dataclasses
import platform

import torch

from fkat.data import _core


@dataclasses.dataclass(frozen=True)
class BuildInfo:
    """What is installed and what it runs on. ``print(build_info())`` is for a bug report.

    Attributes:
        version: Of the package, as built: ``0.1.0+cu130`` from a CUDA wheel, ``0.1.0+cpu`` from
            one without CUDA, ``0.1.0`` from source; "unknown" from CMake alone.
        has_cuda: Whether device mode is compiled in. It takes a driver, and a torch with CUDA, to
            use it.
        cuda_toolkit: Version of the CUDA toolkit whose headers the build was compared with, such as
            "13.0"; None if there was none. It limits neither the driver nor the toolkit of torch:
            nothing of it is linked.
        compiler: Name and version, such as "GNU 12.2.0".
        build_type: CMake's, such as "Release".
        python: Version of the interpreter.
        torch: Version of torch; its local part says for which CUDA.
        platform: Operating system, processor and C library.
    """

    version: str
    has_cuda: bool
    cuda_toolkit: str | None
    compiler: str
    build_type: str
    python: str
    torch: str
    platform: str

    def __str__(self) -> str:
        fields = dataclasses.asdict(self).items()
        return "\n".join(f"{f'{name}:':<14}{value}" for name, value in fields)


def build_info() -> BuildInfo:
    """What the installed package is. Asks no driver and starts nothing."""
    return BuildInfo(
        version=_core.VERSION,
        has_cuda=_core.HAS_CUDA,
        cuda_toolkit=_core.CUDA_TOOLKIT,
        compiler=_core.COMPILER,
        build_type=_core.BUILD_TYPE,
        python=platform.python_version(),
        torch=str(torch.__version__),
        platform=platform.platform(),
    )
