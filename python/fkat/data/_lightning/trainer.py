"""Everything of Lightning's trainer that the data module relies on beyond its public hooks.

Private parts are touched here and nowhere else; ``tests/lightning/test_trainer_parts.py`` names
each one that a new Lightning no longer has.

Words: a microbatch is *finished* when the trainer counts it as processed, which it does after the
optimizer's closure and before ``on_train_batch_end``. That is where a resumed run goes on, so it is
where its data must go on; *delivered* may be up to two ahead of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed import distributed_c10d

from fkat.data._source.stateful import dump_plain, load_plain
from fkat.data.errors import StateError

_PATIENCE_S = 5.0  # for the states of the other ranks
_POLL_S = 0.01


class NoDataLoader:
    """A ``*_dataloader()`` that returns None, and is to the trainer one that nobody overrode.

    It would take None from an overridden one for a mistake, where the model can validate and there
    is no data to do it with.

    Args:
        name: Of the method.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self) -> None:
        """No loader."""

    @property
    def __wrapped__(self) -> Any:
        return getattr(LightningDataModule, self._name)  # what Lightning compares with itself


def is_fitting(trainer: Trainer | None) -> bool:
    """Whether the trainer runs ``fit``, and not ``validate``, ``test`` or ``predict``."""
    return trainer is not None and trainer.state.fn == "fit"


def is_restoring(trainer: Trainer) -> bool:
    """Whether it is loading a checkpoint: then it restores its own counts, too."""
    return bool(trainer._checkpoint_connector._loaded_checkpoint)


def num_finished(trainer: Trainer) -> int:
    """Microbatches finished since training began, over all epochs and resumes."""
    return int(_batches(trainer).total.processed)


def has_finished_epoch(trainer: Trainer) -> bool:
    """Whether the epoch's last microbatch is finished, by its end or by ``limit_train_batches``.

    The trainer knows at the fetch that a microbatch is the last: it may still fail.
    """
    batches = _batches(trainer)
    return bool(batches.is_last_batch and batches.current.ready == batches.current.processed)


def is_in_last_epoch(trainer: Trainer) -> bool:
    """Whether no other epoch follows the present one, as far as that is known."""
    max_epochs = trainer.max_epochs
    return max_epochs is not None and 0 <= max_epochs <= trainer.current_epoch + 1


def is_at_step_boundary(trainer: Trainer) -> bool:
    """Whether no gradient is half accumulated: an optimizer step follows what is finished."""
    num_in_epoch = int(_batches(trainer).current.processed)
    return has_finished_epoch(trainer) or num_in_epoch % trainer.accumulate_grad_batches == 0


def profiler(trainer: Any) -> Any:
    """The trainer's profiler; one that does nothing unless the user chose another."""
    return trainer.profiler


def was_told_to_stop(trainer: Trainer) -> bool:
    """Whether SIGTERM came: the trainer stops after the present microbatch."""
    return trainer.received_sigterm


def stop_if_told_to(trainer: Trainer) -> None:
    """End a wait for the next microbatch, as the trainer would when that is there.

    Several ranks end together, behind the same microbatch: each learns of it from the others.

    Raises:
        SIGTERMException: SIGTERM came.
    """
    if trainer.received_sigterm and trainer.world_size == 1:
        raise SIGTERMException


def begin_pass_anew(trainer: Trainer) -> None:
    """Drop what the trainer has fetched ahead, where its loader was restored under it."""
    fetcher = trainer.fit_loop._data_fetcher
    if fetcher is not None:
        iter(fetcher)


def reload_before_next_epoch(trainer: Any) -> Callable[[], None]:
    """Make the trainer ask for its loaders anew before the next epoch, and after.

    Returns:
        Undoes it.
    """
    before = trainer.reload_dataloaders_every_n_epochs
    trainer.reload_dataloaders_every_n_epochs = 1
    return partial(setattr, trainer, "reload_dataloaders_every_n_epochs", before)


def leave_finished_epoch(trainer: Trainer) -> None:
    """Let a trainer that was restored at the end of an epoch begin the next one as a whole.

    By itself it ends the next epoch before, or right after, it has begun (saved in
    ``on_train_epoch_start``, or with ``max_steps`` in ``on_train_epoch_end``), or trains it as a
    part of the finished one, which the resume after that gets wrong (saved in
    ``on_train_batch_end``). Must be called after the fit loop was restored, and before it is reset
    for the run.
    """
    if not (trainer.fit_loop.restarting and has_finished_epoch(trainer)):
        return
    batches, epochs = _batches(trainer), _epochs(trainer)
    is_within_epoch = epochs.current.processed < epochs.current.started
    if is_within_epoch and batches.current.completed < batches.current.processed:
        # Saved in on_train_batch_end: what follows it would not be made up for, either.
        batches.increment_completed()
        epochs.increment_processed()
        epochs.increment_completed()
        is_within_epoch = False
    if not is_within_epoch:
        batches.reset_on_run()
        trainer.fit_loop.restarting = (
            True  # its setter looks whether there is an epoch to go on with
        )


def _batches(trainer: Trainer) -> Any:
    """Counts of microbatches: ready >= started >= processed >= completed, in total and current."""
    return trainer.fit_loop.epoch_loop.batch_progress


def _epochs(trainer: Trainer) -> Any:
    return trainer.fit_loop.epoch_progress


def gather_states(
    trainer: Trainer, loader: Any, state: dict[str, Any], tag: tuple[int, int]
) -> dict[str, Any]:
    """The states of all ranks as one, where the loader has ``merge_state_dicts(states)``.

    No collective, so nothing can hang: each rank leaves its state in the process group's store, and
    rank 0, whose checkpoint is the one written, looks there for at most 5 seconds. What it lacks
    then, it goes without: its own state is one to resume from, too. Nothing that stands in the
    store is run, for whoever reaches the group's port can write there.

    Args:
        trainer: What fits.
        loader: The training loader.
        state: Its state on this rank.
        tag: The same on every rank for the same save, and no other: which loader of this process
            it is, and how many microbatches are finished.

    Raises:
        StateError: What a rank left is no state in plain types; or the loader cannot merge them.
    """
    if (
        not hasattr(loader, "merge_state_dicts")
        or trainer.world_size == 1
        or trainer.interrupted  # the other ranks may be anywhere, or gone
        or (store := _store()) is None
    ):
        return state
    store.set(_key(trainer.global_rank), dump_plain((tag, state)))
    if trainer.global_rank != 0:
        return state
    states = [state]
    give_up = time.monotonic() + _PATIENCE_S
    for rank in range(1, trainer.world_size):
        theirs = _await_state(store, rank, tag, give_up)
        if theirs is None:
            return state
        states.append(theirs)
    merged: dict[str, Any] = loader.merge_state_dicts(states)
    return merged


def _await_state(store: Any, rank: int, tag: tuple[int, int], give_up: float) -> Any:
    key = _key(rank)
    while True:
        if store.check([key]):  # get() would block on a key that is not there
            their_tag, state = _read(store.get(key), rank)
            if their_tag == tag:
                return state
        if time.monotonic() > give_up:
            return None
        time.sleep(_POLL_S)


def _read(dumped: bytes, rank: int) -> tuple[Any, dict[str, Any]]:
    try:
        their_tag, state = load_plain(dumped)
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StateError(
            f"what rank {rank} left in the process group's store for the checkpoint is no state of "
            f"a loader in plain types: {why}"
        ) from error
    if not isinstance(state, dict):
        raise StateError(f"the state of rank {rank} is of type {type(state).__name__}, not dict")
    return their_tag, state


def _key(rank: int) -> str:
    return f"fkat.data/train_state/{rank}"


def _store() -> Any:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    get_store = getattr(distributed_c10d, "_get_default_store", None)
    return None if get_store is None else get_store()
