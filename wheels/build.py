"""Build every wheel that this machine can build: ``python wheels/build.py FOLDER``.

``+cpu`` has no CUDA code. ``+cu130`` has it, compared with the headers of CUDA toolkit 13.0: it is
built where a toolkit is found. Neither needs a toolkit or a driver to be installed or imported.

Builds without isolation: what the dependency group ``wheel`` names has to be installed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Build them into the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Build every wheel that this machine can build.")
    parser.add_argument("folder", type=Path, help="where the wheels go")
    parser.add_argument("--build-dir", type=Path, default=_ROOT / "build" / "wheel")
    arguments = parser.parse_args()
    # cmake and ninja may be installed beside Python without being on the path.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    toolkit = _find_toolkit(arguments.build_dir / "toolkit")
    print(f"CUDA toolkit: {toolkit or 'none found, so no CUDA wheel'}", flush=True)
    for label in ["cpu"] + ([f"cu{toolkit.replace('.', '')}"] if toolkit else []):
        _build(label, arguments.folder, arguments.build_dir / "module")


def _find_toolkit(build_dir: Path) -> str:
    """Version of the CUDA toolkit that CMake finds, such as 13.0; empty if it finds none."""
    command = ["cmake", "-S", str(_ROOT), "-B", str(build_dir), "-DFKAT_BUILD_MODULE=OFF"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    cache = (build_dir / "CMakeCache.txt").read_text()
    found = re.search(r"^FKAT_CUDA_TOOLKIT:INTERNAL=(.*)$", cache, re.MULTILINE)
    assert found is not None, "CMakeLists.txt says whether there is a toolkit"
    return found[1]


def _build(label: str, folder: Path, build_dir: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    how = ["--no-deps", "--no-build-isolation", f"--wheel-dir={folder}"]
    # One build directory for all: what does not depend on the label is compiled once.
    how += [f"--config-settings=build-dir={build_dir}"]
    environment = {**os.environ, "FKAT_WHEEL": label}
    subprocess.run([*pip, *how, str(_ROOT)], check=True, env=environment)


if __name__ == "__main__":
    main()
