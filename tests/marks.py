"""Marks that several test modules share."""

from __future__ import annotations

import pytest

# torch's word about more workers than this machine has cores, and ours about epochs that are kept.
MANY_WORKERS_AND_KEPT = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:more than 8 microbatches"),
]
