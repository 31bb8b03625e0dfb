"""What can go wrong between two processes, as exceptions to catch.

Errors of user code (dataset, sampler, collate function, factory) are raised in the trainer with
their own type.
"""

from fkat.data._core import CorruptSegmentError, DeviceError

__all__ = [
    "CorruptSegmentError",
    "DeviceError",
    "ProducerDiedError",
    "ResumeMismatchError",
    "StalledError",
    "StateError",
]


class ProducerDiedError(RuntimeError):
    """A producer process ended without saying so: killed, out of memory, or ``os._exit``.

    Attributes:
        pid: Process id of the producer.
        exit_code: As in ``multiprocessing.Process.exitcode``: the negative signal number if a
            signal killed it; None when it is not known.
        has_begun: False for one that exited by itself before it could begin, as the next one would.
    """

    def __init__(
        self, message: str, pid: int, exit_code: int | None, has_begun: bool = True
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exit_code = exit_code
        self.has_begun = has_begun


class StalledError(TimeoutError):
    """No microbatch came within ``timeout``, from a live producer. Asking again waits again."""


class StateError(ValueError):
    """A state that cannot be loaded: newer, another class's, or with keys that are wrong."""


class ResumeMismatchError(StateError):
    """The data is not what it was when the state was saved; the text says what differs, and where.

    ``load_state_dict(state, strict=False)`` makes it a warning.
    """
