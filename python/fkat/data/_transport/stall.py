"""What is said of a producer that lives and delivers nothing."""

from __future__ import annotations

from pathlib import Path

from fkat.data._core import RingView

LOGGED_AFTER_S = 30.0  # a wait without a timeout is logged, once

_DOING = {
    "starting": "starting up, with the imports of user code",
    "building": "building the loader, in dataloader_factory",
    "reading": "reading the data, in user code",
    "writing": "copying a microbatch into shared memory",
    "awaiting slot": "waiting for a free slot, or for room in the memory budget",
    "awaiting grant": "waiting until another microbatch is wanted",
    "awaiting pass": "waiting to be asked for an epoch",
}

# Of proc_pid_stat(5), as of Linux 2.6.33.
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "in uninterruptible sleep, as on a disk or a network file system that does not answer",
    "T": "stopped by a signal; SIGCONT would let it go on",
    "t": "stopped by a debugger",
    "Z": "dead",
    "X": "dead",
}


def process_state(pid: int) -> str:
    """The letter for what the main thread of a process does; "" when it cannot be known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("latin-1")
    except OSError:
        return ""
    return stat.rpartition(") ")[2][:1]  # its name may hold anything, parentheses too


def describe(
    who: str,
    view: RingView,
    used_nbytes: int,
    budget_nbytes: int,
    state: str,
    stack: str,
) -> str:
    """What a producer does, what stands in its queue, and its stack.

    Args:
        who: The producer, as it is called.
        view: Of its ring.
        used_nbytes: Memory of the ring but for what the trainer keeps alive.
        budget_nbytes: How much that may be.
        state: What `process_state` says.
        stack: Its Python stack; empty if it gave none.
    """
    doing = _DOING.get(view.activity, "doing something unknown: shared memory is damaged")
    lines = [
        f"{who} is alive. Its last heartbeat was {view.since_s:.1f} s ago; "
        f"since then it is {doing}.",
        f"queue: {view.num_unread} published and unread; slots: {view.num_free} free, "
        f"{view.num_writing} being written, {view.num_ready} published, {view.num_leased} leased "
        "to the trainer",
        f"memory: {_mib(used_nbytes)} of a budget of {_mib(budget_nbytes)}, and "
        f"{_mib(view.leased_nbytes)} leased to the trainer",
    ]
    if state in _STATES:
        lines.append(f"process: {_STATES[state]}")
    if stack:
        lines.append(f"Python stack, most recent call first:\n{stack}")
    else:
        lines.append("Python stack: no answer")
    return "\n".join(lines)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
