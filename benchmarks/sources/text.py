"""Real text: the source of Python's own standard library, a document a file, and its tokens.

A token is a byte; 0 ends a document. Every loader reads the text of documents in its own format,
and turns it into tokens and packs them in its workers, with `packed_rows`.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness.question import WrongPayloadError

NUM_SHARDS = 8
SHARD_NBYTES = 3 << 20
"""For formats that decide themselves where a shard ends."""
_NUM_COPIES = 2  # of the library, so that an epoch is long beside its turn
ROW_LENGTH = 8192
ROWS_PER_MICROBATCH = 4
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}

_KEYS = ("input_ids", "position_ids", "document_ids")

Document = tuple[int, str]
"""Its number, from 0, and its text."""
Row = dict[str, torch.Tensor]


@cache
def documents() -> tuple[str, ...]:
    """Some 20 MB of text, the same in every process."""
    library = Path(sysconfig.get_path("stdlib"))
    found = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(library.rglob("*.py"))
        if not _LEFT_OUT.intersection(path.relative_to(library).parts)
    ]
    return tuple(found * _NUM_COPIES)


def shards() -> list[list[Document]]:
    """The documents in eight shards of some 3 MB each, in order."""
    all_documents = documents()
    ends = np.cumsum([len(text) for text in all_documents])
    shard_of = np.minimum((ends - 1) * NUM_SHARDS // ends[-1], NUM_SHARDS - 1)
    numbered = list(enumerate(all_documents))
    return [[numbered[i] for i in np.flatnonzero(shard_of == shard)] for shard in range(NUM_SHARDS)]


def token_ids(text: str) -> np.ndarray:
    """The tokens of a document, its end included: uint8, one dimension."""
    return np.frombuffer(text.encode() + b"\0", np.uint8)


def packed_rows(numbered: Iterable[Document]) -> Iterator[Row]:
    """Documents one behind the other, cut into rows of 8192 tokens; an unfinished row is dropped.

    Yields:
        ``input_ids`` and ``position_ids`` (place in its document), int64, and ``document_ids``,
        int32: what attention needs to keep documents apart, and what a check needs to know where
        each token is from.
    """
    row, filled = _empty_row(), 0
    for number, text in numbered:
        tokens = token_ids(text)
        begin = 0
        while begin < len(tokens):
            taken = min(len(tokens) - begin, ROW_LENGTH - filled)
            where = slice(filled, filled + taken)
            row["input_ids"][where] = tokens[begin : begin + taken]
            row["position_ids"][where] = np.arange(begin, begin + taken)
            row["document_ids"][where] = number
            begin += taken
            filled += taken
            if filled == ROW_LENGTH:
                yield {key: torch.from_numpy(array) for key, array in row.items()}
                row, filled = _empty_row(), 0


def _empty_row() -> dict[str, np.ndarray]:
    return {
        "input_ids": np.empty(ROW_LENGTH, np.int64),
        "position_ids": np.empty(ROW_LENGTH, np.int64),
        "document_ids": np.empty(ROW_LENGTH, np.int32),
    }


class TokenCheck:
    """Is every token the one that stands at its place in its document, and does none come twice?

    It does not matter which worker packed which documents, so one check does for every loader.
    """

    def __init__(self) -> None:
        tokens = [token_ids(text) for text in documents()]
        self._tokens = torch.from_numpy(np.concatenate(tokens))
        lengths = torch.tensor([0] + [len(each) for each in tokens])
        self._begins = lengths.cumsum(0)
        # For single tokens, which Python's own types find faster.
        self._token_list = self._tokens.numpy().tobytes()
        self._begin_list = self._begins.tolist()

    def _places(self, index: int, item: Any) -> torch.Tensor:
        shapes = {key: tuple(tensor.shape) for key, tensor in item.items()}
        if shapes != dict.fromkeys(_KEYS, (ROWS_PER_MICROBATCH, ROW_LENGTH)):
            raise WrongPayloadError(f"microbatch {index}: wrong keys or shapes, {shapes}")
        places: torch.Tensor = self._begins[item["document_ids"].long()] + item["position_ids"]
        return places

    def compare_all(self, index: int, item: Any) -> None:
        """Compare every token.

        Raises:
            WrongPayloadError: A token differs.
        """
        self._compared_places(index, item)

    def _compared_places(self, index: int, item: Any) -> torch.Tensor:
        places = self._places(index, item)
        if not torch.equal(self._tokens[places].long(), item["input_ids"]):
            raise WrongPayloadError(f"microbatch {index} has tokens that its documents have not")
        return places

    def compare_one(self, index: int, item: Any) -> None:
        """Compare one token of microbatch ``index``, another each time.

        Raises:
            WrongPayloadError: It differs.
        """
        spot = (index % ROWS_PER_MICROBATCH, index * 977 % ROW_LENGTH)
        token, position, document = (item[key].numpy().item(spot) for key in _KEYS)
        if self._token_list[self._begin_list[document] + position] != token:
            raise WrongPayloadError(f"microbatch {index}: wrong token at {spot}")

    def compare_epoch(self, loader: Iterable[Any], num_packers: int) -> None:
        """Read a whole epoch: every token right, none twice, and none missing.

        Missing may be what does not fill the last microbatch of each of ``num_packers`` workers, or
        shards, that pack on their own.

        Raises:
            WrongPayloadError: It is otherwise.
        """
        num_tokens = 0
        is_seen = torch.zeros(len(self._tokens), dtype=torch.bool)
        for index, item in enumerate(loader):
            places = self._compared_places(index, item)
            is_seen[places] = True
            num_tokens += places.numel()
        num_seen = int(is_seen.sum())
        num_left_over = num_packers * ROWS_PER_MICROBATCH * ROW_LENGTH
        if num_tokens > num_seen or len(is_seen) - num_seen >= num_left_over:
            raise WrongPayloadError(
                f"of {len(is_seen)} tokens {num_seen} came, some more than once: {num_tokens} in "
                f"all; incomplete microbatches explain less than {num_left_over} that never came"
            )
