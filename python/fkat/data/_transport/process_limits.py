"""The limits that this process was given (ulimit), where they keep it from starting a producer."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager

_TOLD = {
    errno.EMFILE: (
        resource.RLIMIT_NOFILE,
        "this process may have {} (RLIMIT_NOFILE, ulimit -n), and a producer takes seven file "
        "descriptors here, and some more while it starts; close files, lower num_shard_prefetches "
        "(producers)",
    ),
    errno.EAGAIN: (
        resource.RLIMIT_NPROC,
        "this user may have {} processes and threads (RLIMIT_NPROC, ulimit -u), and a container "
        "may have a limit of its own (pids.max); lower num_shard_prefetches (producers) or "
        "num_workers (processes of each)",
    ),
}


@contextmanager
def told() -> Iterator[None]:
    """Add to an error of the system which limit it has met, and what to change.

    Raises:
        OSError: As it was raised within, with more words.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _TOLD:
            raise
        limit, words = _TOLD[error.errno]
        most = resource.getrlimit(limit)[0]
        number = "any number of" if most == resource.RLIM_INFINITY else str(most)
        raise OSError(
            error.errno,
            f"starting a producer: {error.strerror}: {words.format(number)}, or raise the limit",
        ) from error
