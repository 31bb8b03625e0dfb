"""A producer that ends before it can begin: an error at once, if the next one would end so, too."""

from __future__ import annotations

import pytest

SCRIPT = """
import os
import signal
import sys
from pathlib import Path
from fkat.data import ShmDataLoader
from fkat.data.errors import ProducerDiedError

folder, action, method = sys.argv[1:]
log = Path(folder, "imported")

def factory():
    return [1, 2, 3]

def train():
    loader = ShmDataLoader(0, factory, multiprocessing_context=method)
    try:
        print(list(loader), "after restarts:", loader.stats().num_restarts)
    except ProducerDiedError as error:
        print(error.exit_code, error.has_begun, loader.stats().num_restarts)
        print(error)

if __name__ == "__main__":
    import multiprocessing
    multiprocessing.set_forkserver_preload([])
else:
    with log.open("a") as file:
        file.write(".")
    if action == "kill once" and log.read_text() == ".":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "fail":
        raise ImportError("not on this machine")
    if action == "exit":
        sys.exit(0)

if __name__ == "__main__" or action == "train":
    train()
"""


@pytest.fixture
def run(start_trainer, tmp_path):
    """Run the script; what it printed, its standard error, and how many producers there were."""

    def run_to_end(action, method):
        code, output, errors = start_trainer(SCRIPT, str(tmp_path), action, method).finish()
        assert code == 0, errors
        return output.splitlines(), errors, len((tmp_path / "imported").read_text())

    return run_to_end


@pytest.mark.parametrize(
    ("method", "action", "exit_code", "reason"),
    [
        ("spawn", "train", 1, "before the current process has finished its bootstrapping phase"),
        ("forkserver", "fail", 1, "ImportError: not on this machine"),
        ("spawn", "exit", 0, ""),
    ],
)
def test_its_own_exit_is_an_error_at_once(run, method, action, exit_code, reason):
    (facts, message), errors, num_producers = run(action, method)
    assert facts == f"{exit_code} False 0"
    assert f"exited with code {exit_code} before it could begin" in message
    assert 'below `if __name__ == "__main__":`' in message
    assert reason in " ".join(errors.split())
    assert num_producers == 1


def test_a_kill_is_followed_by_another_one(run):
    lines, errors, num_producers = run("kill once", "forkserver")
    assert lines == ["[1, 2, 3] after restarts: 1"]
    assert "was killed by SIGKILL" in errors
    assert num_producers == 2
