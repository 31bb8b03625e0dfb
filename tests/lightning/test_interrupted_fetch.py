"""An interrupt in the middle of a fetch: the checkpoint that is saved then goes on exactly.

The loaders' own ``next()`` is in ``tests/test_interrupt_anywhere.py``; here it comes in what the
data module wraps around it, at each place where Python may run a signal handler.
"""

from __future__ import annotations

import itertools
import sys

import pytest

from fkat.data._lightning.finished import Finished
from tests.lightning.training import Cut, CutOffError, Model, Setting, train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

FETCH = Finished.__next__.__code__
SAVED = Cut("at no hook", 0, fails=True)


class Interrupted(Model):
    """Interrupted in the first fetch behind its third microbatch, at a place in it."""

    def __init__(self, place):
        super().__init__()
        self.left = place

    def training_step(self, batch, batch_idx):
        if len(self.ids) == 3:
            sys.setprofile(self.profile)
        return super().training_step(batch, batch_idx)

    def profile(self, frame, event, argument):
        caller = frame.f_back
        is_within = frame.f_code is FETCH and event == "c_return"
        is_begun = event == "call" and caller is not None and caller.f_code is FETCH
        if is_within or is_begun:
            self.left -= 1
            if self.left < 0:
                sys.setprofile(None)
                raise CutOffError
        elif frame.f_code is FETCH and event == "return":
            sys.setprofile(None)


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
def test_the_rest_is_trained_and_nothing_twice(sized, tmp_path):
    setting = Setting(sized)
    whole = train(setting).ids
    for place in itertools.count():
        path = tmp_path / f"{place}.ckpt"
        model = Interrupted(place)
        try:
            before = train(setting, SAVED, path, model=model)
        except AssertionError:  # it ran to its end: there are no more places
            break
        after = train(setting, resume=path)
        assert before.ids + after.ids == whole, place
    assert place > 10
