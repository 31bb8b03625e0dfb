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
from soak.deck import Deck
from soak.payload import Microbatch, Where
from soak.stream import Drawn, Stream
from soak.subjects import Loader, Setup, draw_setup, draw_subject, open_loader

_MAX_HELD = 12  # more than a loader leases out: some are private copies
_CHILD_S = 60  # a forked child that hangs is ended by SIGALRM


class Life:
    """A loader, what is expected of it next, and what is kept of what it delivered."""

    def __init__(
        self, chance: random.Random, counts: Counts, drawn: Drawn, ways: Deck[Way]
    ) -> None:
        self._chance = chance
        self._counts = counts
        self._ways = ways
        self._subject = draw_subject(chance)
        self._stream = Stream(self._subject, counts, drawn)
        self._held: list[tuple[Microbatch, Where]] = []
        self._setup = draw_setup(chance)
        self._loader = self._open(self._setup)
        self._num_restarts = 0  # before this pass

    def live(self) -> None:
        """Take some microbatches, then do something out of the ordinary."""
        for _ in range(self._chance.choice((0, 3, 10, 30, 100))):
            self._step()
        if self._has_restarted() and self._chance.random() < 0.3:
            self._begin_again()  # rare otherwise
        else:
            self._ways.draw()(self)

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
        try:
            microbatch = next(self._loader)
        except StopIteration:
            self._stream.check_end(self._told())
            self._begin(self._stream.epoch + 1)
        except ProducerDiedError:
            self._counts.add("deaths raised")
            if self._chance.random() < 0.5:
                self._resume()
            else:
                iter(self._loader)  # begins an epoch that has failed again
                self._stream.begin_again()
        else:
            self._hold(microbatch, self._stream.check_next(microbatch, self._told()))

    def _step_once_at_least(self) -> None:
        """Until there is something to be left, or to be begun again."""
        self._step()
        while not self._stream.has_delivered:
            self._step()

    def _hold(self, microbatch: Microbatch, where: Where) -> None:
        if self._chance.random() < 0.3:
            self._held.append((microbatch, where))
        if len(self._held) > _MAX_HELD or self._chance.random() < 0.1:
            self._let_go(self._chance.randrange(len(self._held) + 1))

    def _let_go(self, count: int) -> None:
        """Drop some of what is held, in any order, after another look at it."""
        for _ in range(count):
            held = self._held.pop(self._chance.randrange(len(self._held)))
            self._stream.check_held(*held, self._told())

    def _begin(self, epoch: int) -> None:
        iter(self._loader)
        self._stream.begin(epoch)
        self._num_restarts = self._loader.stats().num_restarts

    def _leave_early(self) -> None:
        self._step_once_at_least()
        self._begin(self._stream.epoch + 1)
        self._counts.add("loops left early")

    def _set_epoch(self) -> None:
        self._step_once_at_least()
        others = [epoch for epoch in range(6) if epoch != self._stream.epoch]
        epoch = self._chance.choice(others)
        self._loader.set_epoch(epoch)
        self._begin(epoch)
        self._counts.add("epochs set")

    def _begin_again(self) -> None:
        self._step_once_at_least()
        if self._has_restarted():
            self._counts.add("epochs begun again after a restart")
        self._loader.set_epoch(self._stream.epoch)
        iter(self._loader)
        self._stream.begin_again()
        self._counts.add("epochs begun again")

    def _has_restarted(self) -> bool:
        """Whether another producer has taken over in this pass."""
        return self._loader.stats().num_restarts > self._num_restarts

    def _tear_down(self) -> None:
        self._note_restarts()
        self._loader.teardown()
        self._counts.add("teardowns")
        if self._stream.has_delivered:
            self._begin(self._stream.epoch + 1)

    def _resume(self) -> None:
        """Go on with another loader, of another setup, from a state as a checkpoint has it."""
        file = io.BytesIO()
        torch.save(self._loader.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        setup = draw_setup(self._chance)
        self._replace(setup)
        self._loader.load_state_dict(state)
        self._stream.resume()
        self._counts.add("resumes from a state")
        if setup.num_workers != self._setup.num_workers:
            self._counts.add("resumes with other workers")
        self._setup = setup

    def _start_over(self) -> None:
        self._setup = draw_setup(self._chance)
        self._replace(self._setup)
        self._stream.begin(self._chance.randrange(6))
        self._loader.set_epoch(self._stream.epoch)
        self._counts.add("loaders dropped while in use")

    def _replace(self, setup: Setup) -> None:
        self._note_restarts()
        if self._chance.random() < 0.5:
            self._loader.teardown()
        self._loader = self._open(setup)
        self._num_restarts = 0

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
        try:
            for _ in range(self._chance.randrange(10)):
                self._step()
        finally:
            _, status = os.waitpid(pid, 0)
        if code := os.waitstatus_to_exitcode(status):
            self._counts.fail("forked children that failed", f"exit code {code}, {self._told()}")

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

    def _told(self) -> str:
        return f"{self._stream}, {self._subject}, {self._setup}"

    # Twice: what meets the most different moments.
    WAYS = (
        *(_leave_early, _set_epoch, _begin_again, _begin_again, _tear_down),
        *(_resume, _resume, _fork, _fork, _start_over, _collect),
    )


Way = Callable[[Life], None]
