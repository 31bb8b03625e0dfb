"""Every format of a state that was ever released can still be read, and resumes exactly."""

from __future__ import annotations

import pytest
import torch

from fkat.data._state import VERSION
from tests.states import FOLDER, LOADERS, NUM_FINISHED, rest_of

FILES = sorted(FOLDER.glob("*.pt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_state_of_a_released_format_resumes_exactly(path):
    kept = torch.load(path, weights_only=True)
    loader = LOADERS[path.name.split(".")[0]]()
    loader.load_state_dict(kept["state"])
    assert rest_of(loader) == kept["rest"]
    assert kept["rest"]


@pytest.mark.parametrize("name", LOADERS)
def test_the_present_format_has_a_file(name):
    kept = torch.load(FOLDER / f"{name}.v{VERSION}.pt", weights_only=True)
    loader = LOADERS[name]()
    for _ in range(NUM_FINISHED):
        next(loader)
    assert loader.state_dict() == kept["state"]
