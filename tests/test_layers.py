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

# The layer of each module or package, which stands for what is in it; a new one must find its place
# here. `_core` stands under layer 7.
PYTHON_LAYERS = {
    **dict.fromkeys(["_arguments", "_parts", "_seeding", "_factory", "samplers", "datasets"], 6),
    **dict.fromkeys(["errors", "_state", "_source", "_device", "_transport"], 7),
    **dict.fromkeys(["_restarts", "_place", "_options", "_current_feed", "_loader"], 7),
    **dict.fromkeys(["_shards", "_mixture"], 7),
    "_build": 7,
    **dict.fromkeys(["shm", "sharded", "dict"], 8),
    **dict.fromkeys(["_lightning", "data_module"], 9),
    "__init__": 10,
}
# Within layer 7 each may use those before it.
ORDER_IN_LAYER_7 = [
    *("errors", "_state", "_source", "_device", "_transport"),
    *("_restarts", "_place", "_options", "_current_feed", "_loader", "_shards", "_mixture"),
]
LOADERS = {"shm", "sharded", "dict"}
TOOLKIT_CHECK = CSRC / "cuda" / "toolkit_check.cpp"  # is there to compare with CUDA's own headers
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


def name_of(path):
    """Its dotted name below fkat.data; that of a package is its folder's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def layer_of(name):
    return PYTHON_LAYERS[name.split(".")[0]]


def own_imports(path):
    """The modules of fkat.data among them."""
    names = {name_of(p) for p in modules()} | {"_core"}
    for imported in imports(path):
        parts = imported.removeprefix("fkat.data.").split(".")
        known = [".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in names]
        if imported.startswith("fkat.data.") and known[:1] not in ([], [name_of(path)]):
            yield known[0]


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
    assert not device or path == TOOLKIT_CHECK


def test_the_rules_for_includes_see_every_layer_that_exists():
    layers = {path.name for path in CSRC.iterdir() if path.is_dir()}
    assert {"base", "shm", "ring", "bindings"} <= layers <= set(C_LAYERS)
    assert any("pybind11/pybind11.h" in includes(path) for path in sources())


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_layers_above_its_own(path):
    layer = layer_of(name_of(path))
    for name in own_imports(path):
        assert (6.5 if name == "_core" else layer_of(name)) <= layer, name


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_packages_of_layer_7_import_only_those_before_their_own(path):
    name = name_of(path).split(".")[0]
    if name in ORDER_IN_LAYER_7:
        before = ORDER_IN_LAYER_7[: ORDER_IN_LAYER_7.index(name) + 1]
        used = {used.split(".")[0] for used in own_imports(path)}
        assert used & set(ORDER_IN_LAYER_7) <= set(before)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_loaders_do_not_import_one_another(path):
    if name_of(path) in LOADERS:
        assert set(own_imports(path)) & LOADERS <= {name_of(path)}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_the_data_module_imports_lightning(path):
    packages = {name.split(".")[0] for name in imports(path)}
    assert not packages & LIGHTNING or layer_of(name_of(path)) == 9


def test_modules_do_not_import_one_another_in_circles():
    graph = {name_of(path): set(own_imports(path)) - {"_core"} for path in modules()}
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
    assert not imported & {*LIGHTNING, "pyarrow", "fsspec", "rich", "psutil", "pandas", "torchdata"}
