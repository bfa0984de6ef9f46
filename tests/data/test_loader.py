"""Batches as a pure function of the step, for any workers and ranks; unreadable images by rule."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from openmae.data.loader import EvalBatches, TrainBatches, loader
from openmae.data.sources import open_source
from openmae.data.transforms import EvalTransform, TrainTransform
from openmae.data.values import Decoding
from openmae.errors import DataError, MemoryLimitError


@pytest.fixture
def folder(tmp_path):
    """Eleven images of noise, 00.png to 10.png."""
    for i in range(11):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.png")
    return tmp_path


def spoil(folder, *numbers: int) -> None:
    for i in numbers:
        (folder / f"{i:02d}.png").write_text("not an image")


def batches_of(folder, batch: int = 4, seed: int = 0, **more) -> TrainBatches:
    transform = TrainTransform((8, 8), seed=seed)
    return TrainBatches(open_source(str(folder), Decoding(3)), transform, seed, batch, **more)


def same(a: dict, b: dict) -> bool:
    bad = [[tuple(row) for row in batch["bad"]] for batch in (a, b)]  # torch makes lists of them
    equal = torch.equal(a["image"], b["image"]) and bad[0] == bad[1]
    return equal and a["path"] == b["path"] and a["id"] == b["id"]


# A function of the step.


def test_shape(folder):
    batch = batches_of(folder)[0]
    assert batch["image"].shape == (4, 3, 8, 8)
    assert batch["image"].dtype == torch.uint8
    assert [f"{i:02d}.png" for i in batch["id"]] == batch["path"]
    assert batch["bad"] == []


def test_pure(folder):
    first, again = batches_of(folder), batches_of(folder)
    late = first[9]
    torch.rand(3)
    np.random.random(3)
    assert same(again[2], first[2])
    assert same(again[9], late)
    assert not same(first[2], late)
    assert batches_of(folder, seed=1)[2]["id"] != first[2]["id"]


@pytest.mark.parametrize("bad", [(), (1, 4, 7)])
def test_workers_change_nothing(folder, bad):
    spoil(folder, *bad)
    batches = batches_of(folder)
    runs = [list(loader(batches, range(2, 9), workers)) for workers in (0, 1, 2)]
    assert [len(run) for run in runs] == [7, 7, 7]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(*runs, strict=True))
    assert same(runs[2][3], batches[5])
    assert any(batch["bad"] for batch in runs[0]) == bool(bad)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_global_batch(folder, world):
    spoil(folder, 3)
    whole = batches_of(folder, batch=8)
    parts = [batches_of(folder, batch=8, rank=r, world=world) for r in range(world)]
    for step in (0, 1, 5):
        found = [part[step] for part in parts]
        assert {len(f["id"]) for f in found} == {8 // world}
        assert torch.equal(torch.cat([f["image"] for f in found]), whole[step]["image"])
        assert [i for f in found for i in f["id"]] == whole[step]["id"]
        assert [b for f in found for b in f["bad"]] == whole[step]["bad"]


# The order.


def order(folder, batch: int, steps: int) -> list[int]:
    batches = batches_of(folder, batch=batch)
    return [i for step in range(steps) for i in batches[step]["id"]]


@pytest.mark.parametrize("batch", [3, 4, 11, 25])
def test_every_epoch_is_a_permutation(folder, batch):
    stream = order(folder, batch, -(-44 // batch))
    epochs = [stream[i : i + 11] for i in range(0, 44, 11)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_stream_does_not_depend_on_the_batch(folder):
    assert order(folder, 4, 6) == order(folder, 8, 3) == order(folder, 24, 1)


def test_data_smaller_than_a_batch(folder):
    batch = batches_of(folder, batch=32)[0]
    assert batch["image"].shape == (32, 3, 8, 8)
    assert sorted(batch["id"][:11]) == sorted(batch["id"][11:22]) == list(range(11))
    twice = [batch["id"].index(0), batch["id"].index(0, 11)]
    assert not torch.equal(batch["image"][twice[0]], batch["image"][twice[1]])  # other crops


# Unreadable images.


def test_skip_replaces_by_position(folder):
    whole = batches_of(folder)
    before = [whole[step] for step in range(6)]
    spoil(folder, 5, 6)
    after = [batches_of(folder)[step] for step in range(6)]
    hits = 0
    for a, b in zip(before, after, strict=True):
        for slot in range(4):
            if a["id"][slot] in (5, 6):
                hits += 1
                assert b["id"][slot] not in (5, 6)
            else:
                assert b["id"][slot] == a["id"][slot]
                assert torch.equal(a["image"][slot], b["image"][slot])
    assert hits >= 3
    named = {path for batch in after for path, _ in batch["bad"]}
    assert named == {"05.png", "06.png"}
    assert {r for batch in after for _, r in batch["bad"]} == {"not an image of a known format"}


def test_replacements_differ_between_positions(folder):
    spoil(folder, 5)
    batches = batches_of(folder, batch=11)
    place = [batches.index(p) for p in range(110)]
    replaced = [batches[p // 11]["id"][p % 11] for p in range(110) if place[p] == 5]
    assert len(replaced) == 10
    assert len(set(replaced)) > 3


def test_zero(folder):
    spoil(folder, 5)
    batches = batches_of(folder, batch=11, bad_images="zero")
    batch = batches[0]
    slot = batch["id"].index(5)
    assert sorted(batch["id"]) == list(range(11))
    assert not batch["image"][slot].any()
    assert batch["path"][slot] == "05.png"
    assert batch["bad"] == [("05.png", "not an image of a known format")]


@pytest.mark.parametrize("workers", [0, 1])
def test_error_is_one_clear_line(folder, workers):
    spoil(folder, 5)
    batches = batches_of(folder, batch=11, bad_images="error")
    with pytest.raises(DataError) as found:
        list(loader(batches, range(2), workers))
    assert str(found.value) == (
        "05.png: not an image of a known format. Remove it, or --bad-images skip"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_ends_the_run(folder, workers):
    spoil(folder, *range(11))
    with pytest.raises(DataError, match=r"^20 images in a row cannot be read, the last one \d\d"):
        list(loader(batches_of(folder), range(2), workers))


class Killed(torch.utils.data.Dataset):
    def __getitem__(self, step: int) -> dict:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


def test_a_killed_worker_is_named(capfd, monkeypatch):
    real = _MultiProcessingDataLoaderIter._try_get_data  # looks every five seconds
    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", lambda s: real(s, 0.2))
    with pytest.raises(MemoryLimitError, match=r"A loader process was killed .*--shm-size 8g"):
        list(loader(Killed(), range(2), workers=1))
    assert "Traceback" not in capfd.readouterr().err


class Broken(torch.utils.data.Dataset):
    def __getitem__(self, step: int) -> dict:
        raise RuntimeError("a bug of ours")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_is_not_disguised(workers):
    with pytest.raises(RuntimeError, match="a bug of ours"):
        list(loader(Broken(), range(1), workers))


# Evaluation.


@pytest.mark.parametrize("workers", [0, 1])
def test_eval_batches_leave_out_what_cannot_be_read(folder, workers):
    spoil(folder, 2, 8, 9)
    batches = EvalBatches(open_source(str(folder), Decoding(3)), EvalTransform((8, 8)), 4)
    assert len(batches) == 3
    found = list(loader(batches, range(3), workers))
    assert [batch["id"] for batch in found] == [[0, 1, 3], [4, 5, 6, 7], [10]]
    assert [batch["image"].shape[0] for batch in found] == [3, 4, 1]
    assert [[p for p, _ in batch["bad"]] for batch in found] == [
        ["02.png"],
        [],
        ["08.png", "09.png"],
    ]
    assert found[2]["path"] == ["10.png"]
    assert found[2]["label"] == [-1]


def test_an_eval_batch_may_be_empty(folder):
    spoil(folder, 0, 1)
    batch = EvalBatches(open_source(str(folder), Decoding(3)), EvalTransform((8, 8)), 2)[0]
    assert batch["image"] is None
    assert (batch["id"], len(batch["bad"])) == ([], 2)


LEFT_OPEN = """
import sys, torch
from openmae.data.loader import loader
class Rows(torch.utils.data.Dataset):
    def __getitem__(self, step):
        return {"step": step}
stream = loader(Rows(), range(1000), workers=2)
print(next(stream))
raise SystemExit(3) if sys.argv[1] == "exit" else RuntimeError("a bug")
"""


@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("error", 1)])
def test_a_process_with_an_open_loader_ends(how, code):
    """Workers ignore SIGTERM, with which Python ends its children before it waits for them."""
    command = [sys.executable, "-c", LEFT_OPEN, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert done.stdout.strip() == "{'step': 0}"
