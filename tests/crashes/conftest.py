"""A build of the extension in which a process kills itself where a test says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def crashing_package(tmp_path_factory):
    """A folder to put first on the path: our Python modules, and an extension with crash points."""
    folder = tmp_path_factory.mktemp("crashing")
    package = folder / "site" / "fkat" / "data"
    package.mkdir(parents=True)
    for source in (ROOT / "python" / "fkat" / "data").iterdir():
        if source.name != "__pycache__":
            (package / source.name).symlink_to(source)
    pybind11 = [sys.executable, "-m", "pybind11", "--cmakedir"]
    where = subprocess.run(pybind11, capture_output=True, text=True, check=True).stdout.strip()
    build = folder / "build"
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_FLAGS_RELEASE": "-O1",
        "FKAT_CRASH_POINTS": "ON",
        "FKAT_CUDA": "OFF",
        "CMAKE_UNITY_BUILD": "ON",  # half the time: each header is read once
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": str(package),
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": where,
    }
    define = [f"-D{name}={value}" for name, value in options.items()]
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *define],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    site = package.parents[1]
    # An editable install is found by a finder of its own, ahead of the path.
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'Redirecting' not in type(f).__name__]\n"
    )
    return site
