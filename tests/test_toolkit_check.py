"""Where a CUDA toolkit is found, a declaration of ours that differs from its own does not compile.

Each case breaks one line of driver.h and compiles toolkit_check.cpp, as a build does.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "csrc"


@pytest.fixture(scope="module")
def toolkit(tmp_path_factory) -> list[str]:
    """Compiler options that find the headers of the toolkit that CMake finds."""
    build = tmp_path_factory.mktemp("toolkit")
    options = ["-DFKAT_BUILD_MODULE=OFF", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    command = ["cmake", "-S", str(CSRC.parent), "-B", str(build), *options]
    subprocess.run(command, check=True, capture_output=True)
    commands = (build / "compile_commands.json").read_text()
    found = re.search(r'"command": "(.*toolkit_check\.cpp)"', commands)
    if found is None:
        pytest.skip("no CUDA toolkit here")
    return re.findall(r"-isystem \S+", found[1])


@pytest.fixture
def compile_with(toolkit, tmp_path):
    """Compile the check against a changed driver.h: ``compile_with(pattern, replacement)``."""

    def compile_changed(pattern: str = "", replacement: str = "") -> str:
        text = (CSRC / "cuda" / "driver.h").read_text()
        changed, count = re.subn(pattern, replacement, text) if pattern else (text, 1)
        assert count == 1, f"{pattern} is in driver.h {count} times"
        (tmp_path / "cuda").mkdir()
        (tmp_path / "cuda" / "driver.h").write_text(changed)
        source = tmp_path / "toolkit_check.cpp"  # a copy: quotes look beside the source first
        source.write_text((CSRC / "cuda" / "toolkit_check.cpp").read_text())
        options = " ".join(["-std=c++20", "-fsyntax-only", f"-I{tmp_path}", *toolkit]).split()
        done = subprocess.run(["c++", *options, str(source)], capture_output=True, text=True)
        assert (done.returncode != 0) == bool(pattern), done.stderr
        return done.stderr

    return compile_changed


def test_our_declarations_are_those_of_the_toolkit(compile_with):
    assert compile_with() == ""


@pytest.mark.parametrize(
    ("pattern", "replacement", "says"),
    [
        (r"cuDeviceGet, \(Device\*, int\)", "cuDeviceGet, (Device*, long)", "declared otherwise"),
        (r"cuEventQuery, \(Event\)", "cuEventQuery, (Event, int)", "declared otherwise"),
        (r"cuStreamSynchronize, \(Stream\)", "cuStreamSynchronize, (Event)", "declared otherwise"),
        (r"Result\(\*member\)", "void(*member)", "declared otherwise"),
        (r"cuEventDestroy_v2", "cuEventDestroy", "not the version"),
        (r"cuMemHostRegister_v2", "cuMemHostRegister", "not the version"),
        (r"cuEventCreate,", "cuEventMake,", "cuEventMake"),
        (r"kNotReady = 600", "kNotReady = 601", "kNotReady"),
        (r"kEventDisableTiming = 2", "kEventDisableTiming = 4", "kEventDisableTiming"),
        (r"using DevicePtr = unsigned long long", "using DevicePtr = void*", "DevicePtr"),
    ],
)
def test_a_declaration_that_differs_does_not_compile(compile_with, pattern, replacement, says):
    assert says in compile_with(pattern, replacement)
