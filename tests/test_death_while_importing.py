"""The trainer is killed while the producer, in a new interpreter, hangs in an import."""

from __future__ import annotations

import pytest

# What hangs; PyDLL keeps the GIL, and what a subprocess is started for must end, too.
HANGS = {
    "sleep": "time.sleep(1_000_000)",
    "hold the GIL": "ctypes.PyDLL(None).sleep(1_000_000)",
    "wait for a process": "subprocess.run(['sleep', '1000000'])",
}

MODULE = """
import ctypes
import os
import subprocess
import time

if "HANG" in os.environ:
    print("importing", flush=True)
    {hang}

def factory():
    return [1, 2, 3]
"""

# Imported with the main script, before our package there; or only when the factory is unpickled.
SCRIPTS = {
    "main script": """
import slow
from fkat.data import ShmDataLoader

if __name__ == "__main__":
""",
    "factory": """
if __name__ == "__main__":
    import slow
    from fkat.data import ShmDataLoader
""",
}

START = """
    import multiprocessing
    import os
    import sys
    os.environ["HANG"] = "1"
    multiprocessing.set_forkserver_preload([])  # else it is the forkserver that hangs
    next(ShmDataLoader(0, slow.factory, multiprocessing_context=sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("method", "imported_by", "hang"),
    [
        ("spawn", "main script", "sleep"),
        ("spawn", "factory", "hold the GIL"),
        ("forkserver", "main script", "hold the GIL"),
        ("forkserver", "main script", "wait for a process"),
    ],
)
def test_the_producer_ends(
    start_trainer, wait_until, is_alive, tmp_path, method, imported_by, hang
):
    (tmp_path / "slow.py").write_text(MODULE.format(hang=HANGS[hang]))
    trainer = start_trainer(SCRIPTS[imported_by] + START, method)
    assert trainer.read_line() == "importing"
    processes = trainer.descendants()
    trainer.kill()
    wait_until(lambda: not any(map(is_alive, processes)))
