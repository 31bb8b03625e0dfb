"""Kill, interrupt and starve a trainer with each of the loaders; prints what happened."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median

from rich.console import Console

from benchmarks.harness.environment import describe
from benchmarks.reliability.loaders import LOADERS, is_installed
from benchmarks.reliability.situations import SITUATIONS, Outcome


def _in_words(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 0.1 else f"{seconds:.2g} s"


def cell(outcomes: Sequence[Outcome]) -> str:
    """The runs of a loader in a situation: the median time, and each different end counted."""
    ends: dict[str, list[float]] = {}
    for outcome in outcomes:
        times = ends.setdefault(outcome.words, [])
        if outcome.seconds is not None:
            times.append(outcome.seconds)
    texts = {words: words.format(_in_words(median(t)) if t else "") for words, t in ends.items()}
    if len(texts) == 1:
        return texts.popitem()[1]
    num_times = {words: sum(o.words == words for o in outcomes) for words in texts}
    return "; ".join(f"{num_times[words]}x {text}" for words, text in texts.items())


def _runs(situation: Callable[[str], Outcome], loader: str, num_runs: int) -> Iterator[Outcome]:
    """Fewer once it hangs: that takes long, and the next one hangs as well."""
    for _ in range(num_runs):
        outcome = situation(loader)
        yield outcome
        if outcome.has_hung:
            break


def _spdl_version() -> str | None:
    try:
        return version("spdl-core")
    except PackageNotFoundError:
        return None


def main() -> None:
    """Measure everything, and print a table in Markdown and the errors behind it."""
    titles = {situation.__name__: situation for situation in SITUATIONS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each cell (default: 3)")
    parser.add_argument("--loaders", nargs="+", choices=LOADERS, default=LOADERS)
    parser.add_argument("--situations", nargs="+", choices=titles, default=list(titles))
    options = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    errors = []
    environment = describe()
    environment["packages"]["spdl-core"] = _spdl_version()
    console.print(json.dumps(environment), end="\n\n")
    console.print("| Situation | " + " | ".join(options.loaders) + " |")
    console.print("|---" * (1 + len(options.loaders)) + "|")
    for situation in map(titles.__getitem__, options.situations):
        console.print(f"| {(situation.__doc__ or '').rstrip('.')} |", end="")
        for loader in options.loaders:
            if not is_installed(loader):
                console.print(" not installed |", end="")
                continue
            outcomes = list(_runs(situation, loader, options.runs))
            console.print(f" {cell(outcomes)} |", end="")
            errors += [(situation.__name__, loader, o.error) for o in outcomes[:1] if o.error]
        console.print()
    console.print("\nThe errors of the first runs:")
    for name, loader, error in errors:
        console.print(f"- {name}, {loader}: {error[:300]}")


if __name__ == "__main__":
    main()
