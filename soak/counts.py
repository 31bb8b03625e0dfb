"""What a soak counts."""

from __future__ import annotations

from dataclasses import dataclass, field

TROUBLES = (
    "producers killed",
    "producers restarted in place",
    "deaths raised",
    "producers stopped and continued",
    "trainers killed",
    "trainers stopped and continued",
    "forks of the trainer",
    "loops left early",
    "epochs set",
    "epochs begun again",
    "resumes from a state",
    "resumes with other workers",
    "teardowns",
    "loaders dropped while in use",
    "garbage collections",
)
"""A soak has had each of them when it ends, however short and slow it was."""

_HAPPENED = (
    "microbatches delivered",
    "bytes delivered",
    "private copies",
    "epochs finished",
    "loaders",
    *TROUBLES,
    "epochs begun again after a restart",
    "microbatches of killed trainers",
    "looks for leaks",
    "files that torch left",
    "semaphores that multiprocessing left",
)
_WRONG = (
    "microbatches lost",
    "microbatches repeated",
    "microbatches torn",
    "random numbers that differ",
    "unexpected errors",
    "forked children that failed",
    "trainers that failed",
    "processes leaked",
    "descriptors leaked",
    "bytes of shared memory leaked",
    "files in /dev/shm leaked",
)


@dataclass
class Counts:
    """Everything that happened, and what must not.

    Attributes:
        happened: How often, by name.
        wrong: How often, by name: all zero after a good run.
        reports: What was wrong, in words.
    """

    happened: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_HAPPENED, 0))
    wrong: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_WRONG, 0))
    reports: list[str] = field(default_factory=list)

    def add(self, name: str, count: int = 1) -> None:
        """Something that may happen has happened."""
        self.happened[name] += count

    def fail(self, name: str, report: str, count: int = 1) -> None:
        """Something that must not happen has happened."""
        self.wrong[name] += count
        self.reports.append(f"{name}: {report}")

    @property
    def has_all_troubles(self) -> bool:
        """Whether there was every kind of trouble."""
        return all(self.happened[name] for name in TROUBLES)

    @property
    def is_good(self) -> bool:
        """Whether nothing was wrong."""
        return not any(self.wrong.values())
