"""One configuration, in this process: ``python -m benchmarks.harness.one QUESTION CASE SUBJECT``.

Prints one line of JSON. For a profiler or a debugger; a whole run forks its processes from
`benchmarks.harness.zygote`, which has imported torch already.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import asdict, dataclass, field

from benchmarks.harness.question import CannotDoError, Effort, Measurement


@dataclass(frozen=True)
class Outcome:
    """What came of one configuration.

    Attributes:
        kind: ``"measured"``, ``"cannot"``, ``"not installed"`` or ``"failed"``.
        metrics: If it was measured.
        reason: If it was not.
    """

    kind: str
    metrics: Measurement = field(default_factory=dict)
    reason: str = ""


def measure(question: str, case: str, subject: str, effort: Effort) -> Outcome:
    """Measure in this process, which should be a fresh one."""
    import torch

    from benchmarks.questions import load

    torch.set_num_threads(1)
    # torchdata 0.11 calls a function that torch has deprecated since.
    warnings.filterwarnings("ignore", message=".*set_vital.*")
    # That there are more workers than cores is what is asked.
    warnings.filterwarnings("ignore", message=".*will create . worker processes.*")
    try:
        return Outcome("measured", load(question).measure(case, subject, effort))
    except CannotDoError as error:
        return Outcome("cannot", reason=str(error))
    except ModuleNotFoundError as error:
        return Outcome("not installed", reason=f"{error.name} is not installed")


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("question", "case", "subject"):
        parser.add_argument(name)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shorten", type=int, default=1)
    options = parser.parse_args()
    effort = Effort(options.repeats, options.shorten)
    print(json.dumps(asdict(measure(options.question, options.case, options.subject, effort))))


if __name__ == "__main__":
    main()
