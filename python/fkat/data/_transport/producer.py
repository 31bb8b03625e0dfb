"""The producer process: build the loader, then produce the passes that the trainer asks for.

Runs until the trainer stops it or dies. Never touches an accelerator.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, repeat
from multiprocessing import current_process, util
from typing import Any

import torch

from fkat.data import _core
from fkat.data._source import collate
from fkat.data._source.note import Produced
from fkat.data._transport import stack, unshared_fds
from fkat.data._transport.encoder import Encoder
from fkat.data._transport.inherited_fd import InheritedFd
from fkat.data._transport.record import pack
from fkat.data._transport.remote_error import dump_error
from fkat.data._transport.work import PassSource, Work


@dataclass(frozen=True)
class ProducerArgs:
    """What a producer process is started with."""

    work: Work
    ring_fd: InheritedFd
    wake_fds: tuple[InheritedFd, ...]
    trainer_pidfd: InheritedFd
    answers_fd: InheritedFd
    memory_budget_nbytes: int


def main(args: ProducerArgs) -> None:
    """Body of the producer process."""
    unshared_fds.close()
    gc.freeze()  # a collection would visit, and so copy, every page that fork has made us share
    process = current_process()
    process.name = str(process.name)  # what user code starts by spawn is told its parent's name
    stack.answer_on(args.answers_fd.fd)
    _detach_from_trainer(args.trainer_pidfd.fd)
    _give_way_to_trainer()
    torch.set_num_threads(1)  # as DataLoader's workers do: one core a producer
    ring = _core.Ring.attach(args.ring_fd.fd, [wake_fd.fd for wake_fd in args.wake_fds])
    producer = _core.Producer(ring, args.memory_budget_nbytes)
    collate.use(producer.allocate)
    with _profiled(args.work.profiler):
        _serve(producer, args.work)
    _exit_at_once()


def _exit_at_once() -> None:
    # As multiprocessing leaves a forked child. After spawn it would finalize the interpreter, which
    # takes torch half a second that teardown() would wait for.
    util._exit_function()  # type: ignore[attr-defined]  # ends the children of user code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _detach_from_trainer(trainer_pidfd: int) -> None:
    # Handlers that fork inherits belong to the trainer: Lightning's would swallow SIGTERM.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    # Ctrl-C at a terminal goes to the whole foreground group. The trainer decides what it means; we
    # and the workers that user code starts are told to stop by it, or die with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see sigint.blocked
    with suppress(PermissionError):  # already a session leader
        os.setpgid(0, 0)
    _core.die_with(trainer_pidfd)


def _give_way_to_trainer() -> None:
    # Woken by the trainer, a producer is sometimes put on the trainer's own core (in a virtual
    # machine an idle core does not look so) and would run there at once, until the next microbatch
    # is made: a millisecond or more in which the trainer stands still. A batch task waits until the
    # trainer sleeps, or until another core takes it.
    with suppress(OSError):  # a container may forbid it: then as before
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _serve(producer: _core.Producer, work: Work) -> None:
    source: PassSource | None = None
    previous = 0
    encoders = repeat(Encoder())
    while (pass_ := producer.await_pass(previous)) is not None:
        previous = pass_.id
        position = pass_.start
        try:
            if source is None:
                producer.enter_factory()
                source = work.open()
                producer.share_budget(source.num_workers)
            length = source.length(pass_.epoch)
            producer.announce_length(_core.LENGTH_UNKNOWN if length is None else length)
            for structure, leaves in map(pack, _wanted(producer, pass_, source), encoders):
                # Only the leaves hold the microbatch now: what lies in a slot stays there.
                if not producer.publish(pass_, position, structure, leaves):
                    break
                position += 1
        except BaseException as error:  # user code: SystemExit and KeyboardInterrupt, too
            producer.publish_error(pass_, position, dump_error(error))


def _wanted(producer: _core.Producer, pass_: _core.Pass, source: PassSource) -> Iterator[Produced]:
    """What a pass delivers, each made only once the trainer has room for it."""
    microbatches = source.iterate(pass_.epoch, pass_.start)
    position = pass_.start
    while producer.await_grant(pass_):
        # In a list, not a variable, which would hold it while it is published.
        made = list(islice(microbatches, 1))
        if not made:
            producer.publish_end(pass_, position)
            return
        yield made.pop()
        position += 1


@contextmanager
def _profiled(profiler: Any) -> Iterator[None]:
    """Run the producer under a Lightning profiler, whose report gets the pid as a suffix."""
    if profiler is None:
        yield
        return
    profiler.filename = f"{profiler.filename or 'fkat.data-producer'}-{os.getpid()}"
    profiler.start("fkat.data producer")
    try:
        yield
    finally:
        profiler.stop("fkat.data producer")
        profiler.describe()
        profiler.teardown(stage=None)
