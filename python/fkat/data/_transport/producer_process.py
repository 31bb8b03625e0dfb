"""The trainer's handle on a producer process: start it, notice its death, end it."""

from __future__ import annotations

import operator
import os
import pickle
import runpy
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing import util
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from fkat.data import _core
from fkat.data._transport import process_group, sigint, stack, stall, unshared_fds
from fkat.data._transport.inherited_fd import InheritedFd, InheritedFdNumber
from fkat.data._transport.locate import describe_unpicklable
from fkat.data._transport.producer import ProducerArgs, main
from fkat.data._transport.work import Work
from fkat.data.errors import ProducerDiedError

_GRACE_S = 0.5  # for user code to return, before the producer is killed
_PROFILER_GRACE_S = 10.0  # for a profiler to write its report

_told_at: WeakKeyDictionary[_core.Ring, float] = WeakKeyDictionary()

_NEW_INTERPRETER = str(Path(__file__).with_name("new_interpreter.py"))


class ProducerProcess:
    """A running producer, stopped at the latest when this object is collected or Python exits.

    Args:
        work: What to produce.
        ring: The ring to produce into.
        memory_budget_nbytes: What its slots may hold.
        context: How to start the process.

    Raises:
        TypeError: Under spawn or forkserver, something in ``work`` cannot be pickled; names it.
    """

    def __init__(
        self, work: Work, ring: _core.Ring, memory_budget_nbytes: int, context: BaseContext
    ) -> None:
        self._ring = ring
        self._owner = os.getpid()
        with sigint.deferred():  # a process that we did not get to know would be nobody's to end
            self._answers_fd, write_fd = stack.open_pipe()
            try:
                self._process = _start(work, ring, memory_budget_nbytes, context, write_fd)
            except BaseException:
                os.close(self._answers_fd)
                raise
            finally:
                os.close(write_fd)
            self.pid: int = self._process.pid or 0
            files = ExitStack()
            files.callback(os.close, self._answers_fd)
            # Not daemonic: user code may have children. Then multiprocessing joins it at exit,
            # after running the finalizers of positive priority; this one tells it to stop.
            grace_s = _GRACE_S if work.profiler is None else _PROFILER_GRACE_S
            args = (ring, self._process, grace_s, files)
            self.stop = util.Finalize(self, _stop, args=args, exitpriority=10)
        try:
            self.pidfd = os.pidfd_open(self.pid)  # readable once the process has exited
        except ProcessLookupError:
            raise self.death() from None
        files.callback(os.close, self.pidfd)
        fds = (self._answers_fd, self._process.sentinel, self.pidfd)
        files.callback(unshared_fds.discard, fds)  # the first thing that is done at the end
        unshared_fds.add(ring, fds)

    def tell_to_stop(self) -> None:
        """Say that `stop` comes: what it grants counts from now on."""
        if os.getpid() == self._owner:  # `stop` does nothing in a child that was forked, either
            _tell(self._ring)

    def state_and_stack(self) -> tuple[str, str]:
        """What `stall.process_state` and `stack.ask` say of it. Takes half a second at most."""
        return stall.process_state(self.pid), stack.ask(self.pidfd, self._answers_fd)

    def death(self) -> ProducerDiedError:
        """The error that says how the process, which has exited, came to its end."""
        _end_group(self.pid)
        self._process.join(1.0)
        exit_code = self._process.exitcode
        # By itself, before it had attached to the ring: the next one would end so, too.
        has_begun = not (
            exit_code is not None and exit_code >= 0 and self._ring.look().activity == "starting"
        )
        text = f"the producer (pid {self.pid}) {_how_it_ended(exit_code, has_begun)}"
        return ProducerDiedError(text, self.pid, exit_code, has_begun)


def _how_it_ended(exit_code: int | None, has_begun: bool) -> str:
    if not has_begun:
        return (
            f"exited with code {exit_code} before it could begin, and another one would, too: see "
            "what it wrote to standard error. Under spawn and forkserver it imports the main "
            'script anew, so what that does must stand below `if __name__ == "__main__":`, and '
            "what it imports must be found there"
        )
    if exit_code is None:
        how = "is gone"
    elif exit_code < 0:
        how = f"was killed by {_signal_name(-exit_code)}"
        if -exit_code == signal.SIGKILL:
            how += " (perhaps by the kernel, for want of memory: see dmesg)"
    else:
        how = f"exited with code {exit_code} in the middle of its work"
    return f"{how}; every microbatch that it had published was delivered"


def _start(
    work: Work,
    ring: _core.Ring,
    memory_budget_nbytes: int,
    context: BaseContext,
    answers_write_fd: int,
) -> BaseProcess:
    trainer_pidfd = os.pidfd_open(os.getpid())
    try:
        trainer_fd, answers_fd = InheritedFd(trainer_pidfd), InheritedFd(answers_write_fd)
        ring_fd, wake_fds = InheritedFd(ring.fd), tuple(map(InheritedFd, ring.wake_fds))
        args = ProducerArgs(work, ring_fd, wake_fds, trainer_fd, answers_fd, memory_budget_nbytes)
        name = _ProducerName(trainer_fd, answers_fd)
        process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=main, args=(args,), name=name, daemon=False
        )
        try:
            with sigint.blocked(context):
                process.start()
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            if _can_pickle(work):
                raise
            raise TypeError(
                describe_unpicklable(work.factory, "dataloader_factory", pickle.dumps, error)
                + f"; or use multiprocessing_context='fork' instead of "
                f"{context.get_start_method()!r}"
            ) from error
        return process
    finally:
        os.close(trainer_pidfd)


class _ProducerName(str):
    """A producer's name; to unpickle it does what `new_interpreter.begin` does.

    Under spawn and forkserver the name is among the first that multiprocessing sends to a new
    interpreter, before it imports ``__main__`` and with it torch. From a slow file system that can
    take minutes, in which Ctrl-C at a terminal reaches it (and torch, imported, would abort), the
    trainer may be killed, or ask what it does.
    """

    _arguments: dict[str, Any]

    def __new__(cls, trainer_pidfd: InheritedFd, answers_fd: InheritedFd) -> _ProducerName:
        name = super().__new__(cls, "fkat.data producer")
        name._arguments = {
            "core_path": _core.__file__,
            "trainer_pidfd": InheritedFdNumber(trainer_pidfd),
            "answers_fd": InheritedFdNumber(answers_fd),
            "answer_signal": int(stack.SIGNAL),
        }
        return name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return operator.getitem, ([str(self), _Begun(self._arguments)], 0)


class _Begun:
    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Not by reference: that would import our package.
        return runpy.run_path, (_NEW_INTERPRETER, {"arguments": self._arguments})


def _end_group(pid: int) -> None:
    """Kill what a dead producer leaves: the workers of user code.

    torch's own notice after 5 s, and never those of a forkserver, which stays their living parent.
    While nobody runs under the producer's number, a group of that number can only be the
    producer's; under forkserver it was reaped before we could ask for it as a child.
    """
    if not _is_running(pid):
        process_group.kill(pid)


def _is_running(pid: int) -> bool:
    return stall.process_state(pid) not in ("", "Z", "X")


def _can_pickle(work: Work) -> bool:
    try:
        pickle.dumps(work)
    except Exception:
        return False
    return True


def _stop(ring: _core.Ring, process: BaseProcess, grace_s: float, files: ExitStack) -> None:
    with files:
        _end(ring, process, grace_s)


def _end(ring: _core.Ring, process: BaseProcess, grace_s: float) -> None:
    _tell(ring)
    if util.is_exiting():  # all of them within one grace
        for other in unshared_fds.rings():
            _tell(other)
    try:
        process.join(max(grace_s - (time.monotonic() - _told_at[ring]), 0.0))
    finally:  # nobody asks a second time: an interrupt ends the grace, no more
        if process.pid is not None:
            if process.exitcode is None:
                _kill(process, process.pid)
            # Else multiprocessing keeps it, and its descriptors, until it starts another one: the
            # first join() may have given up a moment before it exited.
            process.join()
    if process.pid is not None:
        _end_group(process.pid)
    if not util.is_exiting():  # then all of it is gone in a moment
        ring.retire()


def _tell(ring: _core.Ring) -> None:
    if ring not in _told_at:
        _told_at[ring] = time.monotonic()
        ring.stop()


def _kill(process: BaseProcess, pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        # It leads a group of its own, with the workers that user code started.
        if os.getpgid(pid) == pid:
            process_group.kill(pid)
    process.kill()
    process.join()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
