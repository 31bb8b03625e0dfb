# One verb per habit. `make demo` and `make test` need Linux, Python, a C++ compiler and make;
# everything else is installed into .venv by pip.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# cmake, ninja and clang-format come from the venv.
export PATH := $(abspath $(BIN)):$(PATH)

SOURCES := $(shell find csrc python -name '*.h' -o -name '*.cpp' -o -name '*.map') CMakeLists.txt
CPP_FILES := $(shell find csrc tests/cpp tests/fake_cuda -name '*.h' -o -name '*.cpp')

# The peers of the benchmark pin an older numpy than the tests use, and the published package has
# the name of ours: each an environment of its own.
PEERS_VENV := .venv-bench
PUBLISHED_VENV := .venv-published

.PHONY: demo test test-python test-cpp bench bench-quick bench-device soak lint format wheel clean

demo: $(VENV)/.demo
	$(BIN)/python examples/kill_and_resume.py
	$(BIN)/python examples/compare_loaders.py

test: test-cpp test-python

# Two tests at a time, which wait for processes and deadlines half the time; see tests/alone.py.
test-python: $(VENV)/.test
	cmake --preset dev --log-level=WARNING && cmake --build --preset dev --target fake_cuda
	FAKE_CUDA_LIBRARY=$(CURDIR)/build/dev/tests/cpp/fake_cuda/libfake_cuda.so \
	  $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# The core without Python: as it is, under ASan and UBSan, and under TSan.
test-cpp: $(VENV)/.test
	for preset in dev asan tsan; do \
	  cmake --preset $$preset --log-level=WARNING && cmake --build --preset $$preset && \
	  ctest --preset $$preset || exit 1; \
	done

# Every question to every peer; then docs/benchmarks.md and its plots from what was stored.
bench:
	$(MAKE) VENV=$(PEERS_VENV) $(PEERS_VENV)/.bench $(PUBLISHED_VENV)/.published
	$(PEERS_VENV)/bin/python -m benchmarks --output benchmarks/results/suite.json
	$(PEERS_VENV)/bin/python -m benchmarks --page benchmarks/results/suite.json

# A smoke test of the same with torch and this package: its numbers are noise.
bench-quick: $(VENV)/.test
	$(BIN)/python -m benchmarks --quick --output $(VENV)/bench-quick.json

# Kills, stops, forks and breaks for minutes; ends with counts.
soak: $(VENV)/.test
	$(BIN)/python -m soak

# Needs a CUDA GPU.
bench-device: $(VENV)/.test
	$(BIN)/python -m benchmarks.device

# Types are checked against what the code imports, so all of it is installed but for the peers.
lint: $(VENV)/.lint $(VENV)/.test $(VENV)/.demo
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run --Werror $(CPP_FILES)

format: $(VENV)/.lint
	ruff check --fix .
	ruff format .
	clang-format -i $(CPP_FILES)

wheel: $(VENV)/.wheel
	$(BIN)/python wheels/build.py dist

clean:
	rm -rf build dist $(VENV) $(PEERS_VENV) $(PUBLISHED_VENV)

# Stamps: each installs what it names, again when what it depends on has changed.
$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'pip>=25.1'
	touch $@

# What a build needs, without the package itself.
$(VENV)/.wheel: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --group wheel
	touch $@

# torch by its pinned name first: so a CPU build suffices, wherever pip is told to find one.
$(VENV)/.package: $(VENV)/.python pyproject.toml constraints.txt $(SOURCES)
	$(PIP) $(shell grep '^torch==' constraints.txt)
	$(PIP) --editable .
	touch $@

$(VENV)/.demo $(VENV)/.test $(VENV)/.lint: $(VENV)/.%: $(VENV)/.package
	$(PIP) --group $*
	touch $@

# Without torchvision, which nobody here needs and which wants the torch built for CUDA: beside
# another torch, Lightning fails to import where there is one.
$(VENV)/.bench: $(VENV)/.package
	$(PIP) --group bench
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio
	touch $@

$(PUBLISHED_VENV)/.published: constraints.txt
	$(PYTHON) -m venv $(PUBLISHED_VENV)
	$(PUBLISHED_VENV)/bin/python -m pip install --quiet $(shell grep '^torch==' constraints.txt) \
	  fkat==0.1.2
	$(PUBLISHED_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio
	touch $@
