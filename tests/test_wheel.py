"""What is installed from a wheel works, without the source tree and without a CUDA driver.

The wheels are built as `make wheel` builds them, from what is in the source distribution.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.timeout(900)  # compiles everything: a minute or more on two cores

TRAIN = """
import json
import sys

import fkat.data
import torch
from fkat.data import ShmDataLoader, _core
from torch.utils.data import DataLoader, TensorDataset


def make_loader():
    items = TensorDataset(torch.arange(200).reshape(100, 2))
    return DataLoader(items, batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(3))


def microbatches(loader):
    return [tensor.tolist() for (tensor,) in loader]


if __name__ == "__main__":
    print(fkat.data.build_info())
    report = {
        "files": [fkat.data.__file__, _core.__file__],
        "info": vars(fkat.data.build_info()),
        "has_stager": hasattr(_core, "RingStager"),
        "plain": microbatches(make_loader()),
        "fork": microbatches(ShmDataLoader(7, make_loader, multiprocessing_context="fork")),
        "spawn": microbatches(ShmDataLoader(7, make_loader, multiprocessing_context="spawn")),
    }
    with open(sys.argv[1], "w") as file:
        json.dump(report, file)
"""


def run(*command: object, cwd: Path = ROOT) -> str:
    # What finds the source tree, or says which wheel, is not for the process.
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FKAT_WHEEL")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_below(folder: Path) -> set[Path]:
    return {p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


@pytest.fixture(scope="session")
def sdist(tmp_path_factory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    make = "import sys, scikit_build_core.build as build; build.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", make, folder)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder)
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="session")
def wheels(sdist) -> dict[str, Path]:
    """Each wheel, by its label, such as cpu and cu130."""
    run(sys.executable, sdist / "wheels" / "build.py", sdist / "dist", cwd=sdist)
    return {re.search(r"\+(\w+)-", path.name)[1]: path for path in (sdist / "dist").iterdir()}


@pytest.fixture(scope="session", params=["cpu", "cu"])
def label(request, wheels) -> str:
    """Of one of the wheels."""
    found = [label for label in wheels if label.rstrip("0123456789") == request.param]
    if not found:
        pytest.skip("no CUDA toolkit here, so no CUDA wheel")
    return found[0]


@pytest.fixture(scope="session")
def environment(label, wheels, tmp_path_factory) -> Path:
    """A new environment with the wheel, and with everything that is here but this package."""
    folder = tmp_path_factory.mktemp(label)
    venv.create(folder)
    borrow_packages(next(folder.glob("lib/python*/site-packages")))
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    run(*pip, "install", "--no-index", "--no-deps", wheels[label])
    return folder


def borrow_packages(site_packages: Path) -> None:
    for folder in map(Path, site.getsitepackages()):
        for path in folder.glob("*"):
            link = site_packages / path.name
            # A .pth file may lead to the source tree, and so may what an editable install wrote.
            if "fkat" not in path.name and path.suffix != ".pth" and not link.exists():
                link.symlink_to(path)


@pytest.fixture(scope="session")
def report(environment, tmp_path_factory) -> dict:
    """What the script above found out."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "train.py").write_text(TRAIN)
    printed = run(environment / "bin" / "python", "-I", "train.py", "report.json", cwd=folder)
    return {**json.loads((folder / "report.json").read_text()), "printed": printed}


def test_it_is_the_wheel_that_is_imported_and_not_the_source_tree(environment, report):
    for file in report["files"]:
        assert Path(file).is_relative_to(environment)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_it_yields_the_microbatches_of_the_dataloader(report, start_method):
    assert len(report["plain"]) == 50
    assert report[start_method] == report["plain"]


def test_build_info_says_which_wheel_it_is(label, report):
    info = report["info"]
    assert info["version"].partition("+")[2] == label
    assert info["has_cuda"] == report["has_stager"] == (label != "cpu")
    toolkit = info["cuda_toolkit"]
    assert label == ("cpu" if toolkit is None else "cu" + toolkit.replace(".", ""))
    assert info["build_type"] == "Release"
    assert [line.split(":")[0] for line in report["printed"].splitlines()] == list(info)


def test_it_holds_the_package_with_its_types_and_the_license(label, wheels, sdist):
    names = set(zipfile.ZipFile(wheels[label]).namelist())
    package = {str(path.relative_to(sdist / "python")) for path in files_below(sdist / "python")}
    (extension,) = {name for name in names - package if ".dist-info/" not in name}
    assert package <= names
    assert {"fkat/data/py.typed", "fkat/data/_core.pyi"} <= package
    assert re.fullmatch(r"fkat/data/_core\.[\w-]+\.so", extension)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_its_extension_exports_nothing_but_its_entry_and_links_nothing_of_cuda(environment):
    (extension,) = environment.glob("lib/python*/site-packages/fkat/data/_core.*.so")
    needed = re.findall(r"\(NEEDED\).*\[(.*?)\.so", run("readelf", "--dynamic", extension))
    assert set(needed) <= {
        "libstdc++",
        "libgcc_s",
        "libc",
        "libm",
        "libdl",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
        "libpthread",
        "librt",
    }
    symbols = run("nm", "--dynamic", "--defined-only", extension).splitlines()
    assert [line.split()[-1] for line in symbols] == ["PyInit__core"]


def test_the_source_distribution_holds_every_source(sdist):
    for name in ("csrc", "python", "tests", "wheels"):
        files = {path.relative_to(ROOT) for path in files_below(ROOT / name)}
        assert files == {path.relative_to(sdist) for path in files_below(sdist / name)}


@pytest.mark.parametrize("label", ["cu99", "cpu"])
def test_a_label_that_is_not_true_is_refused(tmp_path, label):
    options = ["-DFKAT_BUILD_MODULE=OFF", f"-DSKBUILD_PROJECT_VERSION_FULL=1.0+{label}"]
    command = ["cmake", "-S", ROOT, "-B", tmp_path, *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"not +{label} as FKAT_WHEEL says" in " ".join(done.stderr.split())
