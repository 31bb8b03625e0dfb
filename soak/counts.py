"""What a soak counts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Counts:
    """Everything that happened, and what must not.

    Attributes:
        happened: How often, by name.
        wrong: How often, by name: all zero after a good run.
        reports: What was wrong, in words.
    """

    happened: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            (
                "microbatches delivered",
                "bytes delivered",
                "private copies",
                "epochs finished",
                "loaders",
                "producers killed",
                "producers restarted in place",
                "deaths raised",
                "producers stopped and continued",
                "resumes from a state",
                "resumes with other workers",
                "forks of the trainer",
                "loops left early",
                "epochs set",
                "teardowns",
                "loaders dropped while in use",
                "garbage collections",
                "looks for leaks",
            ),
            0,
        )
    )
    wrong: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            (
                "microbatches lost",
                "microbatches repeated",
                "microbatches torn",
                "random numbers that differ",
                "unexpected errors",
                "forked children that failed",
                "processes leaked",
                "descriptors leaked",
                "bytes of shared memory leaked",
                "files in /dev/shm leaked",
            ),
            0,
        )
    )
    reports: list[str] = field(default_factory=list)

    def add(self, name: str, count: int = 1) -> None:
        """Something that may happen has happened."""
        self.happened[name] += count

    def fail(self, name: str, report: str, count: int = 1) -> None:
        """Something that must not happen has happened."""
        self.wrong[name] += count
        self.reports.append(f"{name}: {report}")

    @property
    def is_good(self) -> bool:
        """Whether nothing was wrong, and something was delivered at all."""
        return not any(self.wrong.values()) and self.happened["microbatches delivered"] > 0
