"""The life of one loader: whatever a trainer may do with it, in random order."""

from __future__ import annotations

import gc
import io
import os
import random
import signal
import traceback
from collections.abc import Callable

import torch

from fkat.data.errors import ProducerDiedError
from soak.counts import Counts
from soak.payload import Microbatch, Where, is_whole, nbytes_of
from soak.subjects import Loader, Setup, Subject, draw_setup, open_loader

_MAX_HELD = 12  # more than a loader leases out: some are private copies
_CHILD_S = 60  # a forked child that hangs is ended by SIGALRM

# The random numbers of every place: the same whoever makes it, and when.
Drawn = dict[tuple[Subject, Where], list[float]]


class Life:
    """A loader, what is expected of it next, and what is kept of what it delivered."""

    def __init__(
        self, subject: Subject, chance: random.Random, counts: Counts, drawn: Drawn
    ) -> None:
        self._subject = subject
        self._chance = chance
        self._counts = counts
        self._drawn = drawn
        self._held: list[tuple[Microbatch, Where]] = []
        self._epoch = self._position = 0
        self._has_delivered = False  # since the epoch was begun, or a state loaded
        self._setup = draw_setup(chance)
        self._loader = self._open(self._setup)

    def live(self) -> None:
        """Take some microbatches, then do something out of the ordinary."""
        for _ in range(self._chance.choice((0, 3, 10, 30, 100))):
            self._step()
        ways: list[Callable[[], None]] = [
            *[self._leave_early, self._set_epoch, self._tear_down, self._resume, self._resume],
            *[self._fork, self._fork, self._start_over, self._collect],
        ]
        self._chance.choice(ways)()

    def end(self) -> None:
        """Drop everything, in one of the two orders."""
        self._note_restarts()
        if self._chance.random() < 0.5:
            self._let_go(len(self._held))
        if self._chance.random() < 0.5:
            self._loader.teardown()
            self._counts.add("teardowns")
        del self._loader
        self._let_go(len(self._held))

    def _step(self) -> None:
        is_last = self._position == self._subject.num_microbatches
        try:
            microbatch = next(self._loader)
        except StopIteration:
            if is_last:
                self._counts.add("epochs finished")
            else:
                rest = self._subject.num_microbatches - self._position
                self._counts.fail("microbatches lost", f"the end at {self._here()}", rest)
            self._go_to(self._epoch + 1)
            return
        except ProducerDiedError:
            self._counts.add("deaths raised")
            self._resume()
            return
        if is_last:
            self._counts.fail("microbatches repeated", f"more than there are, {self._here()}")
            self._go_to(self._epoch + 1)
            return
        self._check(microbatch)
        self._position += 1
        self._has_delivered = True
        self._hold(microbatch)

    def _check(self, microbatch: Microbatch) -> None:
        expected = self._subject.where(self._epoch, self._position)
        found = Where(*microbatch["where"].tolist())
        if found != expected:
            name = "microbatches lost" if found > expected else "microbatches repeated"
            self._counts.fail(name, f"{found} instead of {expected}, {self._here()}")
            raise OutOfStepError
        if not is_whole(microbatch, expected, self._subject.shape):
            self._counts.fail("microbatches torn", f"{expected} at delivery, {self._here()}")
        drawn = microbatch["drawn"].tolist()
        if self._drawn.setdefault((self._subject, expected), drawn) != drawn:
            self._counts.fail("random numbers that differ", f"{expected}, {self._here()}")
        self._counts.add("microbatches delivered")
        self._counts.add("bytes delivered", nbytes_of(microbatch))

    def _hold(self, microbatch: Microbatch) -> None:
        if self._chance.random() < 0.3:
            where = self._subject.where(self._epoch, self._position - 1)
            self._held.append((microbatch, where))
        if len(self._held) > _MAX_HELD or self._chance.random() < 0.1:
            self._let_go(self._chance.randrange(len(self._held) + 1))

    def _let_go(self, count: int) -> None:
        """Drop some of what is held, in any order, after another look at it."""
        for _ in range(count):
            microbatch, where = self._held.pop(self._chance.randrange(len(self._held)))
            if not is_whole(microbatch, where, self._subject.shape):
                self._counts.fail("microbatches torn", f"{where} while held, {self._here()}")

    def _go_to(self, epoch: int) -> None:
        iter(self._loader)
        self._epoch, self._position, self._has_delivered = epoch, 0, False

    def _leave_early(self) -> None:
        if self._has_delivered:
            self._go_to(self._epoch + 1)
            self._counts.add("loops left early")

    def _set_epoch(self) -> None:
        if self._has_delivered:
            # Another one: after a resume the present one begins where the state was.
            epoch = self._chance.choice([epoch for epoch in range(6) if epoch != self._epoch])
            self._loader.set_epoch(epoch)
            self._go_to(epoch)
            self._counts.add("epochs set")

    def _tear_down(self) -> None:
        self._note_restarts()
        self._loader.teardown()
        self._counts.add("teardowns")
        if self._has_delivered:
            self._go_to(self._epoch + 1)

    def _resume(self) -> None:
        """Go on with another loader, of another setup, from a state as a checkpoint has it."""
        file = io.BytesIO()
        torch.save(self._loader.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        setup = draw_setup(self._chance)
        self._replace(setup)
        self._loader.load_state_dict(state)
        self._has_delivered = False
        if self._position == self._subject.num_microbatches:
            self._epoch, self._position = self._epoch + 1, 0  # the last one had its end with it
        self._counts.add("resumes from a state")
        if setup.num_workers != self._setup.num_workers:
            self._counts.add("resumes with other workers")
        self._setup = setup

    def _start_over(self) -> None:
        self._setup = draw_setup(self._chance)
        self._replace(self._setup)
        self._epoch = self._chance.randrange(6)
        self._position = 0
        self._has_delivered = False
        self._loader.set_epoch(self._epoch)
        self._counts.add("loaders dropped while in use")

    def _replace(self, setup: Setup) -> None:
        self._note_restarts()
        if self._chance.random() < 0.5:
            self._loader.teardown()
        self._loader = self._open(setup)

    def _open(self, setup: Setup) -> Loader:
        self._counts.add("loaders")
        return open_loader(self._subject, setup)

    def _note_restarts(self) -> None:
        """Count what the loader would forget."""
        stats = self._loader.stats()
        self._counts.add("producers restarted in place", stats.num_restarts)
        self._counts.add("private copies", stats.num_copies)

    def _collect(self) -> None:
        gc.collect()
        self._counts.add("garbage collections")

    def _fork(self) -> None:
        """A child that looks at what is held, drops it, and leaves while the parent goes on."""
        pid = os.fork()
        if pid == 0:
            os._exit(self._be_child())
        self._counts.add("forks of the trainer")
        for _ in range(self._chance.randrange(10)):
            self._step()
        _, status = os.waitpid(pid, 0)
        if code := os.waitstatus_to_exitcode(status):
            self._counts.fail("forked children that failed", f"exit code {code}, {self._here()}")

    def _be_child(self) -> int:
        try:
            signal.alarm(_CHILD_S)
            # Parents may drop what their children read, so only a parent can check it; see
            # tests/test_fork_in_trainer.py for children that can.
            for microbatch, _ in self._held:
                float(microbatch["words"].sum())
            if self._chance.random() < 0.5:
                self._loader.teardown()
            self._held.clear()
            del self._loader
            gc.collect()
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    def _here(self) -> str:
        place = f"microbatch {self._position} of epoch {self._epoch}"
        return f"{place}, {self._subject}, {self._setup}"


class OutOfStepError(Exception):
    """The loader delivered another microbatch than the one that was due; it was reported."""
