"""Question 4: text from shards, turned into tokens and packed into rows of one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.harness.cells import per_second, times_of
from benchmarks.harness.question import Bar, Column, Effort, Measurement, Plot, Question
from benchmarks.harness.spread import Rows
from benchmarks.harness.stream import CPU_AND_WAIT, timed_passes
from benchmarks.sources.run_folder import written_once
from benchmarks.sources.text import (
    NUM_SHARDS,
    ROW_LENGTH,
    ROWS_PER_MICROBATCH,
    TokenCheck,
    documents,
    shards,
)

NUM_PREFETCHES = 4


@dataclass(frozen=True)
class _Reader:
    """A loader of text: its name in the table, its format, and where its functions are.

    Attributes:
        module: Of `benchmarks.peers`; it has a ``write``. Imported for a measurement only.
        opener: The function there that opens the loader.
    """

    title: str
    module: str
    opener: str = "open_loader"

    def write(self, folder: Path) -> None:
        """Write the text in the loader's format."""
        import_module(f"benchmarks.peers.{self.module}").write(folder, shards())

    def open_loader(
        self, folder: Path, num_workers: int
    ) -> AbstractContextManager[Iterable[dict[str, Tensor]]]:
        """The loader of what was written."""
        module = import_module(f"benchmarks.peers.{self.module}")
        loader: AbstractContextManager[Iterable[dict[str, Tensor]]] = getattr(module, self.opener)(
            folder, num_workers, NUM_PREFETCHES
        )
        return loader


READERS = {
    "dataloader": _Reader("torch DataLoader, Parquet by pyarrow", "parquet", "open_dataloader"),
    "stateful": _Reader("StatefulDataLoader, Parquet by pyarrow", "parquet", "open_stateful"),
    "litdata": _Reader("LitData StreamingDataLoader", "litdata"),
    "streaming": _Reader("MosaicML StreamingDataLoader, MDS", "streaming"),
    "webdataset": _Reader("WebDataset WebLoader, tar", "webdataset"),
    "fkat": _Reader("fkat ShardedDataLoader, Parquet", "parquet", "open_fkat"),
}
RIVALS = ("dataloader", "stateful", "litdata", "streaming")


@contextmanager
def _then_checked(
    reader: _Reader, folder: Path, num_workers: int, check: TokenCheck
) -> Iterator[Iterable[Any]]:
    """The loader; after the timed stretches a whole epoch of it is compared."""
    # Ours packs each shard on its own, the others everything that a worker reads.
    num_packers = NUM_SHARDS if reader is READERS["fkat"] else num_workers
    with reader.open_loader(folder, num_workers) as loader:
        yield loader
        check.compare_epoch(loader, num_packers)


def measure(case: str, subject: str, effort: Effort) -> Measurement:
    """One loader in its steady state; the case is the number of workers."""
    reader = READERS[subject]
    folder = written_once(f"text-{reader.module}", reader.write)
    check = TokenCheck()
    open_loader = partial(_then_checked, reader, folder, int(case), check)
    checks = (check.compare_all, check.compare_one)
    return timed_passes(open_loader, None, effort, *checks, int(case))


def _times(rival: str, rows: Rows) -> float:
    return rows[rival]["wall_us"].median / rows["fkat"]["wall_us"].median


NOTES = f"""\
The text is Python's own standard library, twice: some 25 MB in {NUM_SHARDS} shards, a document a
source file. All loaders do the same work in their workers, with the same code: read documents from
the library's own format, turn text into tokens (a byte is one, so that no tokenizer is measured),
pack them into rows of {ROW_LENGTH}, and collate {ROWS_PER_MICROBATCH} rows of token ids, positions
and document numbers into a microbatch of 640 KiB. Nothing is tokenised or packed beforehand, which
LitData's `TokensLoader` would do: it is another task. Shards are read in their order, without
shuffling; they stay in the page cache.

After the timed stretches a whole epoch is read and every token compared: it must be the one at its
place in its document, none twice, and none missing but what does not fill a last microbatch.

* Epochs follow one another in the timed stretches, so their turn is in the figures.
* The others prefetch {NUM_PREFETCHES} microbatches a worker; fkat its default, as many as its
  memory budget admits: it delivers shards in their order, so the second worker can be ahead only by
  what fits there.
* fkat packs each shard on its own and drops what does not fill its last microbatch; the others
  pack everything that a worker reads."""

QUESTION = Question(
    name="tokens",
    title="How fast does text from shards become packed tokens?",
    cases={"1": "1 worker", "2": "2 workers"},
    subjects={name: reader.title for name, reader in READERS.items()},
    measure=measure,
    prepare=lambda case: documents(),
    columns=(
        Column("tokens/s", style=per_second("wall_us", ROW_LENGTH * ROWS_PER_MICROBATCH)),
        Column("rate", style=times_of("wall_us", "dataloader")),
        Column("wall us", "wall_us"),
        *CPU_AND_WAIT,
    ),
    bars=tuple(
        Bar(
            case,
            f"rate, times that of {READERS[rival].title}",
            "x",
            1,
            True,
            partial(_times, rival),
        )
        for case in ("1", "2")
        for rival in RIVALS
    ),
    plots=(Plot("wall time per microbatch of 32,768 tokens, us", "wall_us"),),
    notes=NOTES,
)
