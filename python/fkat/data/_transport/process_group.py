"""The process group of a producer: the workers that user code started, and what they leave."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path


def kill(leader: int) -> None:
    """Kill every process of the group that ``leader`` leads, or led.

    To share a tensor, torch makes a file in /dev/shm and removes it in the next moment: what they
    hold of such files is removed for them. They are not stopped first, so that one more could not
    come behind our back: were we killed then, they would stay stopped for ever.
    """
    with suppress(OSError):  # there is none
        os.killpg(leader, 0)
        try:
            files = [path for pid in _members(leader) for path in _files_of(pid)]
        finally:  # whatever comes between
            os.killpg(leader, signal.SIGKILL)
        for path in files:
            path.unlink(missing_ok=True)


def _members(leader: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdecimal() and os.getpgid(int(folder.name)) == leader:
                found.append(int(folder.name))
    return found


def _files_of(pid: int) -> list[Path]:
    """Those that torch made there and has not removed.

    Only what it holds open or mapped: where several containers share /dev/shm, a file with its
    number in the name may be another's.
    """
    own = re.compile(rf"/dev/shm/torch_{pid}_\w+")  # and no "(deleted)" behind it
    names: list[str] = []
    with suppress(OSError):
        # Names of files are bytes: any.
        maps = os.fsdecode(Path(f"/proc/{pid}/maps").read_bytes()).split("\n")
        names += [line[line.find("/") :] for line in maps]
        names += [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return [Path(name) for name in names if own.fullmatch(name)]
