"""What the benchmarks read is the same each time, and a loader that delivers other data is caught.

A loader of each kind of source is run for a moment, as a whole benchmark runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.harness.question import WrongPayloadError
from benchmarks.sources import images, run_folder, text

ROOT = Path(__file__).parents[1]


def image_batch(index):
    return images.all_images()[index].clone()


def microbatches(numbered):
    """What a loader makes of documents: the rows, four at a time, stacked."""
    rows = list(text.packed_rows(numbered))
    size = text.ROWS_PER_MICROBATCH
    for first in range(0, len(rows) - size + 1, size):
        four = rows[first : first + size]
        yield {key: torch.stack([row[key] for row in four]) for key in four[0]}


@pytest.fixture(scope="module")
def few_documents():
    """The first fifty: what is checked is the same as in all."""
    few = text.documents()[:50]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "documents", lambda: few)
        yield few


@pytest.fixture(scope="module")
def epoch(few_documents):
    return list(microbatches(enumerate(few_documents)))


@pytest.fixture(scope="module")
def token_check(few_documents):
    return text.TokenCheck()


def test_images_are_the_same_each_time_and_differ_from_one_another():
    first = images.all_images()
    images.all_images.cache_clear()
    assert torch.equal(images.all_images(), first)
    assert len({image.numpy().tobytes() for image in first.flatten(0, 1)}) == 768


def test_a_batch_of_images_as_it_was_made_passes():
    dataset = images.ImagesInMemory(2000)
    batch = torch.stack([dataset[index] for index in range(256, 512)])
    images.compare_all(4, batch)
    images.compare_one(4, batch.numpy())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda batch: batch[:255],
        lambda batch: batch.int(),
        lambda batch: batch.roll(1, 0),
        lambda batch: torch.where(torch.arange(224) == 223, batch + 1, batch),
    ],
    ids=["one missing", "another dtype", "another order", "a column of pixels"],
)
@pytest.mark.parametrize("compare", [images.compare_all, images.compare_one])
def test_a_wrong_batch_of_images_is_caught(spoil, compare):
    with pytest.raises(WrongPayloadError):
        compare(1, spoil(image_batch(1)))


def test_the_full_comparison_of_images_sees_a_single_byte():
    batch = image_batch(2)
    batch[100, 1, 50, 50] += 1
    with pytest.raises(WrongPayloadError, match="batch 2 differs"):
        images.compare_all(2, batch)


def test_every_document_is_in_one_shard():
    assert sum(map(len, text.documents())) > 5_000_000
    documents = [document for shard in text.shards() for document in shard]
    assert documents == list(enumerate(text.documents()))
    assert len(text.shards()) == text.NUM_SHARDS
    assert all(text.shards())


def test_packed_rows_are_the_documents_one_behind_the_other():
    rows = list(text.packed_rows([(7, "a" * 8190), (9, "b" * 8200)]))
    assert [key for row in rows for key in row] == ["input_ids", "position_ids", "document_ids"] * 2
    tokens = torch.cat([row["input_ids"] for row in rows])
    expected = b"a" * 8190 + b"\0" + b"b" * 8193
    assert bytes(tokens.tolist()) == expected
    assert torch.cat([row["position_ids"] for row in rows]).tolist() == [
        *range(8191),
        *range(8193),
    ]
    assert torch.cat([row["document_ids"] for row in rows]).tolist() == [7] * 8191 + [9] * 8193


def test_a_whole_epoch_of_tokens_passes(epoch, token_check):
    token_check.compare_epoch(epoch, 1)
    for index, microbatch in enumerate(epoch):
        token_check.compare_one(index, microbatch)


@pytest.mark.parametrize(
    ("key", "compare"),
    [
        ("input_ids", "compare_all"),
        ("position_ids", "compare_all"),
        ("input_ids", "compare_one"),
    ],
)
def test_a_wrong_microbatch_of_tokens_is_caught(epoch, token_check, key, compare):
    spoilt = {**epoch[3], key: epoch[3][key] ^ 1}
    with pytest.raises(WrongPayloadError):
        getattr(token_check, compare)(3, spoilt)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda epoch: [*epoch, epoch[0]], "more than once"),
        (lambda epoch: [*epoch[:5], *epoch[6:]], "never came"),
        (lambda epoch: [{key: rows[:3] for key, rows in epoch[0].items()}], "shapes"),
    ],
    ids=["one twice", "one missing", "a smaller one"],
)
def test_an_epoch_with_other_microbatches_is_caught(epoch, token_check, spoil, said):
    with pytest.raises(WrongPayloadError, match=said):
        token_check.compare_epoch(spoil(epoch), 1)


def test_pictures_are_the_same_each_time_and_differ_from_one_another(tmp_path):
    if find_spec("PIL") is None or find_spec("skimage") is None:
        pytest.skip("Pillow, or scikit-image with its photographs, is not installed")
    from benchmarks.sources import pictures

    written = []
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        pictures.write_pictures(tmp_path / name, "jpeg")
        written.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert written[0] == written[1]
    assert len(set(written[0])) == pictures.NUM_FILES

    paths = sorted((tmp_path / "once").iterdir())
    check = pictures.PictureCheck(paths)
    dataset = pictures.PictureFiles(paths, 1000)
    batch = torch.stack([dataset[index] for index in range(32, 64)])
    check.compare_all(4, batch)
    check.compare_one(4, batch)
    for compare in (check.compare_all, check.compare_one):
        with pytest.raises(WrongPayloadError):
            compare(4, batch.roll(1, 0))


def test_what_a_run_has_written_is_shared_and_then_removed():
    made = []

    def write(folder):
        made.append(folder)
        (folder / "file").write_text("text")

    with run_folder.shared_by_processes():
        folders = [run_folder.written_once("name", write) for _ in range(2)]
        assert folders[0] == folders[1]
        assert (folders[0] / "file").read_text() == "text"
    assert len(made) == 1
    assert not folders[0].exists()


def test_what_could_not_be_written_is_not_taken_for_written():
    def fail(folder):
        raise OSError("no space left")

    with run_folder.shared_by_processes():
        with pytest.raises(OSError, match="no space left"):
            run_folder.written_once("name", fail)
        folder = run_folder.written_once("name", lambda folder: (folder / "file").touch())
        assert [path.name for path in folder.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("question", "case", "subject", "metric"),
    [
        ("collate", "1", "dataloader", "wall_us"),
        ("collate", "1", "fkat", "wall_us"),
        ("tokens", "2", "fkat", "wall_us"),
        ("lightning_step", "10ms", "fkat", "step_ms"),
    ],
)
def test_a_loader_is_measured(question, case, subject, metric):
    command = [sys.executable, "-m", "benchmarks.harness.one", question, case, subject]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, "--repeats", "2", "--shorten", "20"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert (outcome["kind"], outcome["reason"]) == ("measured", "")
    assert len(outcome["metrics"][metric]) == 2
    assert min(outcome["metrics"][metric]) > 0
