"""NVIDIA's checker of memory accesses finds nothing in a run with the loader."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

SANITIZER = shutil.which("compute-sanitizer")

# The producer starts as its own interpreter, outside of what is checked.
SCRIPT = """
import torch
from fkat.data import ShmDataLoader
from tests.gpu.work import Ramps, num_wrong

if __name__ == "__main__":
    device = torch.device("cuda")
    loader = ShmDataLoader(0, Ramps(40, 1 << 14), 2, device=device,
                           multiprocessing_context="spawn")
    wrong = [num_wrong(microbatch) for microbatch in loader]
    print("wrong:", sum(int(count) for count in wrong), "of", len(wrong))
    loader.teardown()
"""


@pytest.mark.timeout(600)
@pytest.mark.skipif(SANITIZER is None, reason="needs compute-sanitizer: not run")
def test_the_sanitizer_finds_nothing(tmp_path, pytestconfig):
    script = tmp_path / "trainer.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [SANITIZER, "--tool", "memcheck", "--target-processes", "application-only"]
    done = subprocess.run(
        [*command, sys.executable, str(script)],
        cwd=pytestconfig.rootpath,
        env={**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)},
        capture_output=True,
        text=True,
    )
    output = done.stdout + done.stderr
    assert "wrong: 0 of 40" in output
    assert "ERROR SUMMARY: 0 errors" in output
    assert done.returncode == 0
