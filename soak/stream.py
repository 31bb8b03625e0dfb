"""What a loader has to deliver, and a check of whatever it does deliver."""

from __future__ import annotations

from soak.counts import Counts
from soak.payload import Microbatch, Where, is_whole, nbytes_of
from soak.subjects import Subject

# The random numbers of every place: the same whoever makes it, and when.
Drawn = dict[tuple[Subject, Where], list[float]]


class OutOfStepError(Exception):
    """The loader delivered another microbatch than the one that was due; it was reported."""


class Stream:
    """The place of a loader in what it has to deliver.

    Args:
        subject: What that is.
        counts: Where the result of every check goes.
        drawn: The random numbers so far.

    Attributes:
        epoch: The present one.
        position: Of the next microbatch in it.
        has_delivered: Whether there was a microbatch since the pass was begun.
    """

    def __init__(self, subject: Subject, counts: Counts, drawn: Drawn) -> None:
        self._subject = subject
        self._counts = counts
        self._drawn = drawn
        self.begin(0)

    _beginning: int  # the position at which the pass was begun

    def begin(self, epoch: int, position: int = 0) -> None:
        """A pass begins there."""
        self.epoch, self.position, self._beginning = epoch, position, position
        self.has_delivered = False

    def begin_again(self) -> None:
        """The pass begins again, after a resume where the state was."""
        self.begin(self.epoch, self._beginning)

    def resume(self) -> None:
        """A state of the present place was loaded."""
        if self.position == self._subject.num_microbatches:
            self.begin(self.epoch + 1)  # the last microbatch had the end of the epoch with it
        else:
            self.begin(self.epoch, self.position)

    def check_next(self, microbatch: Microbatch, told: str) -> Where:
        """Its place, if it is the one that is due.

        Args:
            microbatch: What was delivered.
            told: By what loader.

        Raises:
            OutOfStepError: It is another one.
        """
        found = Where(*microbatch["where"].tolist())
        if self.position == self._subject.num_microbatches:
            self._counts.fail("microbatches repeated", f"{found} behind the last one, {told}")
            raise OutOfStepError
        expected = self._subject.where(self.epoch, self.position)
        if found != expected:
            name = "microbatches lost" if found > expected else "microbatches repeated"
            self._counts.fail(name, f"{found} instead of {expected}, {told}")
            raise OutOfStepError
        if not is_whole(microbatch, expected, self._subject.shape):
            self._counts.fail("microbatches torn", f"{expected} at delivery, {told}")
        drawn = microbatch["drawn"].tolist()
        if self._drawn.setdefault((self._subject, expected), drawn) != drawn:
            self._counts.fail("random numbers that differ", f"{expected}, {told}")
        self._counts.add("microbatches delivered")
        self._counts.add("bytes delivered", nbytes_of(microbatch))
        self.position += 1
        self.has_delivered = True
        return expected

    def check_end(self, told: str) -> None:
        """The loader has said that the epoch ends here."""
        if rest := self._subject.num_microbatches - self.position:
            self._counts.fail("microbatches lost", f"the end at {self}, {told}", rest)
        else:
            self._counts.add("epochs finished")

    def check_held(self, microbatch: Microbatch, where: Where, told: str) -> None:
        """Another look at one that was delivered before, as that of ``where``."""
        if not is_whole(microbatch, where, self._subject.shape):
            self._counts.fail("microbatches torn", f"{where} while held, {told}")

    def __str__(self) -> str:
        return f"microbatch {self.position} of epoch {self.epoch}"
