"""Write the state files of the present format that are not there yet."""

from __future__ import annotations

import torch

from fkat.data._state import VERSION
from tests.states import FOLDER, LOADERS, NUM_FINISHED, rest_of

for name, make in LOADERS.items():
    path = FOLDER / f"{name}.v{VERSION}.pt"
    if path.exists():
        continue
    loader = make()
    for _ in range(NUM_FINISHED):
        next(loader)
    state = loader.state_dict()
    torch.save({"state": state, "rest": rest_of(loader)}, path)
    print(path)
