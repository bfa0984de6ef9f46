"""What the explorer answers: the numbers of `reconstruct`, painted masks, neighbours, no growth."""

from __future__ import annotations

import base64
import io
import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

import openmae
from openmae.cli import main
from openmae.config.pictures import patches_of
from openmae.data.decode import decode
from openmae.data.source import ArraySource
from openmae.errors import DataError, StorageError, UsageError
from openmae.report import explorer as explorers
from openmae.report.explorer import Ask, Embedded, NoImageError
from openmae.report.hiding import grid_ratios, ranges


def pixels(url: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) as found:
        return np.array(found)


def patch_of(image: np.ndarray, number: int) -> np.ndarray:
    y, x = divmod(number, 6)
    return image[8 * y : 8 * y + 8, 8 * x : 8 * x + 8]


@pytest.fixture(scope="module")
def explorer(explore):
    return explore()


def test_what_the_page_is_told(explorer):
    about = explorer.about()
    assert about["size"] == (32, 48)
    assert about["grid"] == (4, 6)
    assert about["grid_ratios"] == [0.75]
    assert about["steps"] == [10, 20]
    assert about["samples"] == 5
    assert about["masks"] == ["random", "block", "grid"]
    json.dumps(about)


ASKED = [
    Ask(1),
    Ask(1, ratio=0.5, seed=7),
    Ask(2, mask="block", seed=3, cheat_scale=True),
    Ask(0, mask="grid", ratio=0.75),
    Ask(3, hidden=(0, 1, 2, 9, 23)),
    Ask(3, hidden=(5,), step=10),
    Ask(4, ratio=0.6, step=10, bands=(2,)),
]


@pytest.mark.parametrize("ask", ASKED)
def test_the_command_gives_the_same_numbers_and_the_same_picture(
    ask, explorer, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    found = explorer.reconstruct(ask)
    words = shlex.split(found["command"])
    assert main([*words[1:], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["reconstruction_mse"] == found["mse"]
    assert told["mean_fill_mse"] == found["mean_fill_mse"]
    with Image.open(tmp_path / "reconstruction.png") as opened:
        sheet = np.array(opened.convert("RGB"))
    scale, top = 3, 2 * 18 + 2 * 8  # of report.pictures.sheet
    for number, name in ((0, "original"), (2, "output")):
        left = 8 + number * (48 * scale + 8)
        tile = sheet[top : top + 32 * scale : scale, left : left + 48 * scale : scale]
        np.testing.assert_array_equal(tile, pixels(found[name]))


def test_a_painted_mask_is_respected(explorer):
    hidden = (0, 7, 8, 20)
    found = explorer.reconstruct(Ask(0, hidden=hidden))
    assert found["hidden"] == list(hidden)
    error = pixels(found["error"])
    dark = pixels(explorer.reconstruct(Ask(0, hidden=(1,)))["error"])[0, 0]
    for number in range(24):
        same = (patch_of(error, number) == dark).all()
        assert same == (number not in hidden)


def test_hidden_pixels_cannot_change_the_output(explorer, pictures):
    image = decode(pictures / "picture 0.png")
    other = image.copy()
    first = explorer.add("a", image)["id"]
    y, x = 0, 0  # patch 0 of the transformed image lies within this corner of the file
    other[y : y + 8, x : x + 8] = 255 - other[y : y + 8, x : x + 8]
    second = explorer.add("b", other)["id"]
    hidden = (0, 1, 6, 7)
    one, two = (explorer.reconstruct(Ask(i, hidden=hidden)) for i in (first, second))
    assert one["original"] != two["original"]
    assert one["output"] == two["output"]
    assert one["mse"] != two["mse"]


def test_the_mask_of_the_model_is_as_in_evaluation(explorer, demo_run):
    found = explorer.reconstruct(Ask(0, seed=11))
    from openmae.randomness import Rand

    method = openmae.load(demo_run)
    _, hidden = method.ids(1, Rand(11, 0, 0.0, 0, 1).uniform)
    assert found["hidden"] == sorted(hidden[0].tolist())


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (Ask(99), NoImageError),
        (Ask("0" * 16), NoImageError),
        (Ask(0, hidden=(24,)), UsageError),
        (Ask(0, hidden=tuple(range(24))), UsageError),
        (Ask(0, mask="evil"), UsageError),
        (Ask(0, mask="grid", ratio=0.5), UsageError),
        (Ask(0, mask="grid", ratio=0.8889), UsageError),
        (Ask(0, bands=(9,)), UsageError),
        (Ask(0, step=15), UsageError),
    ],
)
def test_what_cannot_be_is_said(ask, error, explorer):
    with pytest.raises(error):
        explorer.reconstruct(ask)


def test_memory_is_bounded(explore, monkeypatch):
    monkeypatch.setattr(explorers, "MOST_IMAGES", 3)
    explorer = explore()
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    ids = [explorer.add(str(i), image)["id"] for i in range(3)]
    explorer.image(ids[0])  # it was used last
    ids.append(explorer.add("3", image)["id"])
    assert len(explorer._uploads) == 3
    with pytest.raises(NoImageError):
        explorer.image(ids[1])
    explorer.image(ids[0])
    monkeypatch.setattr(explorers, "MOST_BYTES", 1)
    explorer.add("4", image)
    assert len(explorer._uploads) == 1
    with pytest.raises(DataError):
        explorer.add("deep", image.astype(np.uint16))


def test_checkpoints_are_two_in_memory_and_differ(explore):
    explorer = explore()
    new, old = (explorer.reconstruct(Ask(0, step=step)) for step in (None, 10))
    assert new["mse"] != old["mse"]
    assert explorer.reconstruct(Ask(0, step=20))["mse"] == new["mse"]
    assert explorer.steps.at(20) is explorer.steps.newest
    assert explorer.steps.at(10) is explorer.steps.at(10)


def test_a_damaged_checkpoint_is_said(explore, demo_run, tmp_path):
    import shutil

    from openmae.weights import load_any
    from openmae.weights.steps import Steps

    shutil.copytree(demo_run, tmp_path / "run")
    steps = Steps(load_any(str(tmp_path / "run")))
    path = tmp_path / "run/checkpoints/step_00000010/weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match="fails its checksum"):
        steps.at(10)


def test_neighbours_are_the_nearest_by_cosine(explore, demo_run):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
    method = openmae.load(demo_run)
    with torch.inference_mode():
        tokens = method.encoder(torch.from_numpy(images).permute(0, 3, 1, 2))
    vectors = tokens[:, 1:].mean(dim=1).double().numpy()
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    source = ArraySource("x", images, np.zeros(12, dtype=np.int64), ["a"])
    names = [source.path(i) for i in range(12)]
    rows = np.arange(12)
    rows[3] = -1
    explorer = explore(embedded=Embedded(unit, names, "mean", source, rows))
    key = explorer.add("x", images[5])["id"]
    found = explorer.neighbours(key)
    similar = unit @ unit[5]
    assert [f["index"] for f in found] == np.argsort(-similar, kind="stable")[:8].tolist()
    assert found[0]["index"] == 5
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-5)
    with Image.open(io.BytesIO(explorer.neighbour(5))) as thumbnail:
        assert max(thumbnail.size) <= 96
    with pytest.raises(NoImageError):
        explorer.neighbour(3)
    with pytest.raises(UsageError, match="no embeddings"):
        explore().neighbours(0)


def test_numbers_of_patches_in_words():
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = sorted(set(rng.integers(0, 300, rng.integers(1, 120)).tolist()))
        assert patches_of(ranges(ids)) == tuple(ids)
    assert ranges([0, 1, 2, 7]) == "0-2,7"
    for words in ("", "a", "3-1", "1,,2", "-1", "1-", "9999999", "٣"):
        with pytest.raises(ValueError, match=r".*"):
            patches_of(words)


def test_ratios_of_grid_masks():
    assert grid_ratios((14, 14)) == [0.75]
    assert grid_ratios((12, 12)) == [0.75, 0.8889, 0.9375]
    assert grid_ratios((7, 7)) == []
