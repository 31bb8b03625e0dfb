"""The questions, a module each; `ORDER` is theirs in the report."""

from __future__ import annotations

from importlib import import_module

from benchmarks.harness.question import Question

ORDER = (
    *("handoff", "collate", "decode", "tokens", "lightning_step"),
    *("startup", "resume", "scaling"),
)


def load(name: str) -> Question:
    """The question of that name; only its own module is imported."""
    question: Question = import_module(f"benchmarks.questions.{name}").QUESTION
    return question
