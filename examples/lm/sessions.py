"""A process and all that it starts, told apart from others by their session."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path


def count_processes(session: int) -> int:
    """Processes of a session that run; a zombie only waits for whoever inherited it."""
    stats = (_stat(path) for path in Path("/proc").glob("[0-9]*/stat"))
    return sum(stat[3] == str(session) and stat[0] not in "ZX" for stat in stats if stat)


def kill_leader(process: subprocess.Popen[str], within_s: float = 10.0) -> tuple[int, int]:
    """Send SIGKILL to the leader of a session, and to no other process of it.

    Args:
        process: The leader.
        within_s: How long the others have to end, in seconds.

    Returns:
        How many processes were in the session, and how many are left.
    """
    num_before = count_processes(process.pid)
    process.kill()
    process.wait()
    give_up = time.monotonic() + within_s
    while count_processes(process.pid) and time.monotonic() < give_up:
        time.sleep(0.01)
    return num_before, count_processes(process.pid)


def _stat(path: Path) -> list[str]:
    """What follows the command's name in ``/proc/PID/stat``: state, ppid, pgrp, session, ..."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return []
