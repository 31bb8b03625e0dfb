"""Kill a training run in the middle of an epoch, resume it, and compare with one left alone.

``python examples/kill_and_resume.py``: under a minute on two CPU cores, no GPU, no downloads. Runs
`train_lm.py` three times: uninterrupted; stopped by SIGKILL some steps after a checkpoint; resumed
from that checkpoint. Exits with 1 if the last two together differ from the first in anything.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from lm.sessions import kill_leader
from lm.verdict import Microbatch, print_verdict
from rich.console import Console

TRAIN = [sys.executable, str(Path(__file__).with_name("train_lm.py"))]


def run(
    title: str, arguments: list[str], console: Console, kill_after: int | None = None
) -> list[Microbatch]:
    """Train in a process of its own; kill it when it has finished ``kill_after`` microbatches.

    Returns:
        All that it says to have finished, up to its end.

    Raises:
        RuntimeError: It did not end as it should, or left processes behind.
    """
    finished: list[Microbatch] = []
    with (
        console.status(title),
        # In a session of its own, so that its producers can be counted when it is gone.
        subprocess.Popen(
            TRAIN + arguments, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                finished.append(Microbatch(**json.loads(line)))
                if len(finished) == kill_after:
                    num_before, num_left = kill_leader(process)
                    title += f": {num_left} of its {num_before} processes left"
                    if num_left:
                        raise RuntimeError(f"{title}: they should be gone")
        finally:
            process.kill()  # does nothing to one that has ended
    expected = 0 if kill_after is None else -signal.SIGKILL
    if process.returncode != expected:
        raise RuntimeError(
            f"{title}: exit code {process.returncode} instead of {int(expected)}, after "
            f"{len(finished)} microbatches"
        )
    console.print(f"{title}; {len(finished)} microbatches finished")
    return finished


def latest(checkpoints: Path) -> tuple[Path, int]:
    """The last checkpoint, and the steps before it (there may be two: the old one goes last)."""
    steps = {path: int(path.stem.partition("=")[2]) for path in checkpoints.glob("step=*.ckpt")}
    return max(steps.items(), key=lambda item: item[1])


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2, help="of 48 steps")
    parser.add_argument("--save-every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--kill-after", type=int, default=70, help="steps before the kill")
    options = parser.parse_args()
    if options.kill_after <= options.save_every:
        parser.error("--kill-after: more than --save-every, or there is no checkpoint to resume")
    return options


def main() -> int:
    """Run three times, compare."""
    options = parse()
    console = Console(highlight=False)
    console.print(
        "Trains a byte-level transformer from Parquet shards, through ShardedDataLoader\n"
        "and DataModule: uninterrupted, killed in the middle of an epoch, resumed.\n"
    )
    with tempfile.TemporaryDirectory(prefix="fkat-demo-") as folder:
        shards, checkpoints = Path(folder, "shards"), Path(folder, "checkpoints")
        settings = [f"--epochs={options.epochs}", f"--save-every={options.save_every}"]
        alone = [str(shards), str(Path(folder, "other-checkpoints")), *settings]
        ours = [str(shards), str(checkpoints), *settings]
        uninterrupted = run("uninterrupted", alone, console)
        killed = run("killed by SIGKILL", ours, console, options.kill_after)
        checkpoint, num_saved = latest(checkpoints)
        resumed = run(f"resumed from {checkpoint.name}", [*ours, f"--resume={checkpoint}"], console)
    console.print(f"lost with the kill, and done again: {len(killed) - num_saved} microbatches\n")
    is_exact = print_verdict(uninterrupted, killed[:num_saved], resumed, console)
    return 0 if is_exact else 1


if __name__ == "__main__":
    sys.exit(main())
