"""Where and with what the numbers were taken: a figure without this means nothing later."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    *("fkat-data", "fkat", "torch", "numpy", "lightning", "pyarrow", "pillow"),
    *("torchdata", "spdl", "grain", "webdataset", "litdata", "mosaicml-streaming"),
)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _field(path: str, name: str) -> str | None:
    """First value of ``name : value`` in one of /proc's text files."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    values = (line.split(":", 1)[1].strip() for line in lines if line.startswith(name))
    return next(values, None)


def packages() -> dict[str, str]:
    """Versions of those that matter and are installed."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def describe() -> dict[str, Any]:
    """Commit, machine, versions and date; nothing that names a host or a user."""
    return {
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git_commit": _git("rev-parse", "--verify", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "cpu_model": _field("/proc/cpuinfo", "model name"),
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_total": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "packages": packages(),
    }
