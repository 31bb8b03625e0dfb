"""Each layer uses only those above it, as the design draws them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "fkat" / "data"

# What each layer may include (section 3 of the design).
C_LAYERS = {
    "base": {"base"},
    "shm": {"shm", "base"},
    "ring": {"ring", "shm", "base"},
    "cuda": {"cuda", "base"},
    "bindings": {"bindings", "ring", "cuda", "shm", "base"},
}

# Each module's layer; a new module must find its place here. `_core` stands under layer 7.
PYTHON_LAYERS = {
    **dict.fromkeys(["_arguments", "_codec", "_locate", "_seeding", "_source", "_feed"], 6),
    **dict.fromkeys(["errors", "_remote_error", "_producer", "_producer_process"], 7),
    **dict.fromkeys(["_producer_feed", "_local_feed"], 7),
    **dict.fromkeys(["shm", "sharded", "dict"], 8),
    "data_module": 9,
    "__init__": 10,
}
LOADERS = {"shm", "sharded", "dict"}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}


def sources():
    return sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp"))


def includes(path):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Absolute names of everything that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path):
    """The modules of fkat.data among them."""
    names = {p.stem for p in modules()} | {"_core"}
    parts = (name.split(".") for name in imports(path) if name.startswith("fkat.data."))
    return {part[2] for part in parts if part[2] in names}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(CSRC)))
def test_a_source_includes_only_layers_above_its_own(path):
    allowed = C_LAYERS[path.relative_to(CSRC).parts[0]]
    ours = {name.split("/")[0] for name in includes(path) if (CSRC / name).exists()}
    assert ours <= allowed


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(CSRC)))
def test_only_the_bindings_include_python_and_nothing_includes_torch_or_cuda(path):
    foreign = [name for name in includes(path) if not (CSRC / name).exists()]
    python = [name for name in foreign if re.match(r"Python\.h|pybind11/", name)]
    device = [name for name in foreign if re.match(r"torch|ATen|c10|cuda|nv", name)]
    assert not python or path.parent.name == "bindings"
    assert not device


def test_the_rules_for_includes_see_every_layer_that_exists():
    layers = {path.name for path in CSRC.iterdir() if path.is_dir()}
    assert {"base", "shm", "ring", "bindings"} <= layers <= set(C_LAYERS)
    assert any("pybind11/pybind11.h" in includes(path) for path in sources())


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_a_module_imports_only_layers_above_its_own(path):
    layer = PYTHON_LAYERS[path.stem]
    for name in own_imports(path):
        assert (6.5 if name == "_core" else PYTHON_LAYERS[name]) <= layer, name


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_loaders_do_not_import_one_another(path):
    if path.stem in LOADERS:
        assert own_imports(path) & LOADERS <= {path.stem}


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_only_the_data_module_imports_lightning(path):
    packages = {name.split(".")[0] for name in imports(path)}
    assert not packages & LIGHTNING or PYTHON_LAYERS[path.stem] == 9


def test_modules_do_not_import_one_another_in_circles():
    graph = {path.stem: own_imports(path) - {"_core"} for path in modules()}
    while free := [name for name, needed in graph.items() if not needed & set(graph)]:
        for name in free:
            del graph[name]
    assert graph == {}


def test_importing_the_package_imports_no_more_than_it_needs():
    script = "import sys, fkat.data; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {name.split(".")[0] for name in done.stdout.split()}
    assert {"fkat", "torch", "numpy"} <= imported
    assert not imported & {*LIGHTNING, "pyarrow", "rich", "psutil", "pandas", "torchdata"}
