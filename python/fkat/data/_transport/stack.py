"""The Python stacks of a producer, also while it is in C code and holds the GIL.

The producer is sent a signal. Its handler, in C (`faulthandler`), writes the stacks to a pipe
without asking for the GIL. The pipe does not block: if nobody reads, text is lost, nothing waits.
"""

from __future__ import annotations

import faulthandler
import os
import re
import select
import signal
import time
from contextlib import suppress

# Ignored by default, so it does no harm to a producer that has not come as far as to handle it, or
# whose user code has taken it. Next to nobody has: it tells of urgent data on a socket, and Go
# chose it for its own purposes because of that. SIGUSR1 and SIGUSR2 are the users' and the cluster
# managers', and kill where nobody handles them.
SIGNAL = signal.SIGURG

_ANSWER_S = 0.5  # what a report may be late for want of an answer
_QUIET_S = 0.1  # no end is marked: after this much silence the answer is complete
_MAX_NBYTES_OF_MAIN = 3072
_MAX_NBYTES_OF_OTHERS = 1024

_HEADER = re.compile(r"(?:Current t|T)hread (0x[0-9a-f]+).*:")
_IMPORT_MACHINERY = re.compile(r'  File "<frozen importlib.*\n')
# Below the producer's own entry stands how it was started; under fork, the trainer's stack.
_OUTSIDE = re.compile(r'(?<=_transport/producer\.py", line )(\d+ in main)\n.*', re.DOTALL)


def answer_on(fd: int) -> None:
    """Write this process's stacks to ``fd`` whenever `SIGNAL` comes. For the producer only."""
    faulthandler.register(SIGNAL, fd, all_threads=True, chain=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})


def open_pipe() -> tuple[int, int]:
    """Where the answers come out, and the end for `answer_on`; the caller closes both."""
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


def ask(pidfd: int, answers_fd: int) -> str:
    """The stacks of a process, its main thread's first, in some 4 KiB; "" if it does not answer.

    Takes half a second at most.
    """
    _read(answers_fd)  # an answer that came too late
    try:
        signal.pidfd_send_signal(pidfd, SIGNAL)
    except OSError:  # it has exited, or belongs to another user now
        return ""
    ready = select.poll()
    ready.register(answers_fd, select.POLLIN)
    give_up = time.monotonic() + _ANSWER_S
    answer, patience_s = b"", _ANSWER_S
    while ready.poll(1000 * max(min(patience_s, give_up - time.monotonic()), 0)):
        text = _read(answers_fd)
        if not text:  # nobody is left who could write
            break
        answer += text
        patience_s = _QUIET_S
    return _readable(answer.decode("ascii", "replace"))


def _read(fd: int) -> bytes:
    with suppress(BlockingIOError):
        return os.read(fd, 1 << 20)  # more than a pipe holds
    return b""


def _readable(dump: str) -> str:
    """What faulthandler has written, with the main thread first and without what says nothing."""
    dump = _IMPORT_MACHINERY.sub("", dump.strip())
    # It begins with the youngest thread, so the last one is the main thread.
    main, *others = dump.split("\n\n")[::-1]
    main = _HEADER.sub("main thread:", _OUTSIDE.sub(r"\1", main), count=1)
    named = [_HEADER.sub(r"thread \1:", other, count=1) for other in others]
    shown = [_cut(main, _MAX_NBYTES_OF_MAIN), _cut("\n".join(named), _MAX_NBYTES_OF_OTHERS)]
    return "\n".join(filter(None, shown))


def _cut(text: str, max_nbytes: int) -> str:
    if len(text) <= max_nbytes:
        return text
    return text[:max_nbytes].rpartition("\n")[0] + "\n  ... (cut)"
