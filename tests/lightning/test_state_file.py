"""A checkpoint's data module state of a released format can still be read, and resumes exactly.

``python -m tests.lightning.test_state_file`` writes the file of the present format.
"""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer

from fkat.data import DataModule
from fkat.data._state import VERSION
from tests.lightning.training import QUIET, Model
from tests.states import FOLDER, shm_loader

pytestmark = pytest.mark.filterwarnings("ignore:.*val_dataloader", "ignore:.*LeafSpec")

NUM_FINISHED = 5
FILES = sorted((FOLDER / "data_module").glob("*.pt"))


def trained(data: DataModule, num_microbatches: int) -> list[int]:
    """The ids of so many microbatches."""
    model = Model()
    Trainer(max_steps=num_microbatches, **QUIET).fit(model, data)
    return model.ids


def saved() -> dict[str, object]:
    data = DataModule({"train": shm_loader})
    trained(data, NUM_FINISHED)
    return data.state_dict()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_state_of_a_released_format_resumes_exactly(path):
    whole = trained(DataModule({"train": shm_loader}), 15)
    data = DataModule({"train": shm_loader})
    data.load_state_dict(torch.load(path, weights_only=True))
    rest = trained(data, 6)
    finished = len(trained(DataModule({"train": shm_loader}), NUM_FINISHED))
    assert rest == whole[finished : finished + len(rest)]
    assert len(rest) > 6


def test_the_present_format_has_a_file():
    kept = torch.load(FOLDER / "data_module" / f"v{VERSION}.pt", weights_only=True)
    assert saved() == kept


if __name__ == "__main__":
    target = FOLDER / "data_module" / f"v{VERSION}.pt"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        torch.save(saved(), target)
