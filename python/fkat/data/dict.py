"""`DictDataLoader`: microbatches of several loaders, mixed by a strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from fkat.data import _arguments as arguments
from fkat.data import _state as state
from fkat.data._mixture.child import Record
from fkat.data._mixture.children import KIND, check_state, new_child
from fkat.data._mixture.named import with_name
from fkat.data._transport.feed import LoaderStats
from fkat.data.errors import StalledError
from fkat.data.samplers import _turns as mixing
from fkat.data.samplers.strategies import SamplerStrategy

__all__ = ["DictDataLoader"]


class DictDataLoader:
    """Microbatches of several loaders, each with the name of its loader in it.

    The strategy names the loader of each microbatch. An exhausted loader is skipped; the epoch ends
    when all are exhausted, or all but those of weight 0, or when the strategy ends. What a rank
    draws does not depend on its number, so all ranks draw the same names.

    The loader is its own iterator. ``iter()`` begins the next epoch if the current one has
    delivered anything, begins an epoch that failed again, and starts what `prepare` starts.

    A loader with ``set_epoch`` (or whose dataset or sampler has it) is told the epoch. One with
    ``state_dict`` and ``load_state_dict`` is resumed by them; any other is read again from the
    beginning of the epoch, with a warning.

    Args:
        dataloaders: By name; each gives dicts.
        strategy: Whose turn it is: an iterable of names, see `fkat.data.samplers.strategies`.
        key: Where a microbatch gets the name. It is a shallow copy that gets it.

    Raises:
        TypeError: An argument has the wrong type, or a loader can save its state but not load it.
        ValueError: The strategy names what is no loader, or is known never to name one of them.

    Iterating raises what the loaders raise; ``RuntimeError`` for a microbatch that is no dict or
    has the key already, and when the strategy names only exhausted loaders, a million times in a
    row; ``ValueError`` for a name that is no loader's.
    """

    def __init__(
        self,
        dataloaders: dict[str, Iterable[dict[str, Any]]],
        strategy: SamplerStrategy,
        key: str = "dataset",
    ) -> None:
        if not isinstance(dataloaders, Mapping) or not dataloaders:
            raise TypeError(f"dataloaders must be a dict of at least one, got {dataloaders!r}")
        for name, loader in dataloaders.items():
            if not isinstance(name, str) or not isinstance(loader, Iterable):
                raise TypeError(
                    f"dataloaders must be a dict of name: iterable, got {name!r}: {loader!r}"
                )
        if not isinstance(key, str):
            raise TypeError(f"key must be a str, got {key!r}")
        self._children = {name: new_child(name, loader) for name, loader in dataloaders.items()}
        self._strategy = mixing.checked_strategy(strategy, self._children)
        self._drawn = [name for name in self._children if mixing.can_be_drawn(self._strategy, name)]
        self._key = key
        self._resumed: dict[str, Any] | None = None  # the state loaded, while in its epoch
        self._is_strict = True
        self._stand(0)

    def _stand(self, epoch: int, microbatch: int = 0, draws: int = 0) -> None:
        self._epoch = epoch
        self._microbatch = microbatch  # of the next
        self._draws = draws  # the strategy's position
        self._turns: mixing.Turns | None = None  # until the pass begins
        self._wanted_epoch: int | None = None  # by set_epoch(), for the next pass
        self._has_delivered = False  # in this pass
        self._is_over = False  # the epoch has come to its end
        self._is_stopped = False  # by teardown(), wherever it stood
        self._has_failed = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Begin the next epoch, unless the current one has delivered nothing yet."""
        self.leave_epoch()
        self.prepare()
        return self

    def leave_epoch(self) -> None:
        """What ``iter()`` does, but for starting anything."""
        if self._has_begun():
            following = self._epoch if self._has_failed else self._epoch + 1
            self._restart(following if self._wanted_epoch is None else self._wanted_epoch)

    def prepare(self) -> None:
        """Have the first microbatches made ahead by the loaders of this package that are drawn.

        Each that is behind its last microbatch begins its next epoch, each within an epoch goes on
        in it. Waits for nothing, and raises nothing: ``next()`` raises what goes wrong.
        """
        for name in self._drawn:
            self._children[name].prepare()

    def __next__(self) -> dict[str, Any]:
        """The next microbatch, with the name of its loader in it."""
        if self._has_failed:
            raise RuntimeError("this epoch has failed; iter() begins it again")
        if self._is_over or self._is_stopped:
            raise StopIteration
        try:
            turns = self._current_turns()
            turns.position = self._draws  # an interrupt may have come behind a turn
            name, microbatch = turns.next_of(self._children)
            named: dict[str, Any] = with_name(microbatch, name, self._key)
        except StopIteration:
            self._is_over = True
            raise
        except StalledError:
            raise  # nothing is lost: asking again waits again, for the same loader
        except Exception:
            self._has_failed = True
            raise
        self._children[name].take()
        # No call between these: an interrupt finds all of them done, or none.
        self._draws = turns.position
        self._microbatch += 1
        self._has_delivered = True
        return named

    def __len__(self) -> int:
        """Microbatches in an epoch; TypeError when a loader does not know its own."""
        lengths = {}
        for name in self._drawn:
            try:
                lengths[name] = len(self._children[name].loader)
            except (TypeError, NotImplementedError) as error:
                raise TypeError(f"loader {name!r} has no len(): {error}") from error
        return mixing.count_turns(self._strategy, lengths)

    def state_dict(self) -> dict[str, Any]:
        """Where the next microbatch stands, in plain types under fixed keys. Starts nothing."""
        return self.snapshot()()

    def snapshot(self, next_epoch: bool = False) -> Callable[[], dict[str, Any]]:
        """The present position, cheaply; the result is `state_dict` as it is now.

        Args:
            next_epoch: The beginning of the epoch after the present one instead.

        Raises:
            TypeError: The state of a loader of another library is not of plain types.
        """
        leaves = next_epoch or self._is_over
        records = {n: c.capture(self._epoch, leaves) for n, c in self._children.items()}
        if leaves:
            return partial(self._state_at, self._epoch + 1, 0, 0, records)
        return partial(self._state_at, self._epoch, self._microbatch, self._draws, records)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Go on where another mixture of the same loaders stopped; ``{}`` changes nothing.

        Args:
            state_dict: What `state_dict` returned.
            strict: False makes warnings of differences, in the strategy and in the loaders.

        Raises:
            StateError: It is no state of a `DictDataLoader` with these loaders, or a newer one.
            ResumeMismatchError: The strategy differs.
        """
        if state_dict == {}:
            return
        check_state(state_dict, self._children)
        was, is_ = state_dict["strategy"], mixing.name_of(self._strategy)
        found = [] if was == is_ else [f"the strategy was {was}, is {is_}"]
        state.object_to(found, strict)
        self._is_strict = strict
        self._load(state_dict)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of ``epoch``; a pass that has delivered something goes on."""
        epoch = arguments.integer("epoch", epoch, minimum=0, maximum=2**63 - 1)
        if self._has_begun():
            self._wanted_epoch = epoch
        elif epoch != self._epoch:
            self._restart(epoch)

    def set_device(self, device: torch.device | None) -> None:
        """Pass ``device`` on to each loader that has ``set_device``."""
        self._tell("set_device", device)

    def stats(self) -> LoaderStats:
        """The sum of what the loaders with ``stats()`` tell."""
        told = (getattr(child.loader, "stats", None) for child in self._children.values())
        stats = (tell() for tell in told if callable(tell))
        return sum((s for s in stats if isinstance(s, LoaderStats)), LoaderStats())

    def teardown(self, *args: Any) -> None:
        """Tear the loaders down, and with them end the current epoch. ``iter()`` starts anew."""
        self._tell("teardown", *args)
        self._stop()

    def on_exception(self, exception: BaseException) -> None:
        """Tell the loaders that the training loop has failed, and end the epoch."""
        self._tell("on_exception", exception)
        self._stop()

    def _stop(self) -> None:
        for child in self._children.values():
            child.stop()
        if self._has_delivered:
            self._is_stopped = True
        elif self._turns is not None and not (self._is_over or self._has_failed):
            self._restart(self._epoch)

    def _tell(self, hook: str, *args: Any) -> None:
        for child in self._children.values():
            method = getattr(child.loader, hook, None)
            if callable(method):
                method(*args)

    def _has_begun(self) -> bool:
        return self._has_delivered or self._is_over or self._is_stopped or self._has_failed

    def _restart(self, epoch: int) -> None:
        if self._resumed is not None and self._resumed["epoch"] == epoch:
            self._load(self._resumed)
            return
        self._resumed = None
        self._stand(epoch)
        for child in self._children.values():
            child.restart(epoch)

    def _load(self, state_dict: dict[str, Any]) -> None:
        self._has_failed = True  # until every loader has taken its state
        epoch = state_dict["epoch"]
        for name, child in self._children.items():
            child.load(state_dict["dataloaders"][name], epoch, self._is_strict)
        self._resumed = state_dict
        self._stand(epoch, state_dict["microbatch"], state_dict["draws"])

    def _current_turns(self) -> mixing.Turns:
        if self._turns is None:
            live = [name for name in self._drawn if self._children[name].begin(self._epoch)]
            self._turns = mixing.Turns(
                self._strategy, self._children, live, self._epoch, self._draws
            )
        return self._turns

    def _state_at(
        self, epoch: int, microbatch: int, draws: int, captured: dict[str, Callable[[], Record]]
    ) -> dict[str, Any]:
        records = {name: capture() for name, capture in captured.items()}
        live = {n for n, record in records.items() if not self._children[n].is_finished(record)}
        if microbatch > 0 and mixing.has_ended(self._strategy, draws, live):
            epoch, microbatch, draws = epoch + 1, 0, 0
            records = {name: self._children[name].left(r) for name, r in records.items()}
        return {
            **state.header(KIND),
            "epoch": epoch,
            "microbatch": microbatch,
            "draws": draws,
            "strategy": mixing.name_of(self._strategy),
            "dataloaders": records,
        }
