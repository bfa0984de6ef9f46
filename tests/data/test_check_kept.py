"""The look before a run: what it warns of, and its numbers from what was kept of each file."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from openmae.data.check import scan
from openmae.data.sources import open_source
from openmae.data.survey import survey
from openmae.data.values import Decoding


def put(root, images: list[np.ndarray], start: int = 0) -> None:
    root.mkdir(exist_ok=True)
    for i, image in enumerate(images, start):
        Image.fromarray(image).save(root / f"{i:03d}.png")


def noise(count: int, *shape: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]


def look(root, channels: int = 3, **more):
    return scan(open_source(str(root), Decoding(channels)), channels, **more)


# What a run is warned of.


def mixed_depths(root) -> None:
    put(root, noise(2, 40, 40))
    for i in range(2):
        deep = np.random.default_rng(i).integers(0, 4000, (40, 40), dtype=np.uint16)
        Image.fromarray(deep).save(root / f"deep{i}.png")


def warned(root, channels: int = 3) -> str:
    return "\n".join(look(root, channels).warnings())


def test_a_good_set_is_not_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr("openmae.data.check._FEW", 4)
    put(tmp_path, noise(4, 20, 20, 3))
    assert look(tmp_path).warnings() == []


def test_few_images(tmp_path):
    put(tmp_path, noise(4, 20, 20, 3))
    assert warned(tmp_path).startswith("4 images: MAE features will be weak. Start from weights")
    assert look(tmp_path).warnings(pretraining=False) == []


def test_mixed_depths(tmp_path):
    mixed_depths(tmp_path)
    assert "2 of 4 images are 8-bit, the others uint16: 8-bit values are scaled by 255, deeper" in (
        said := warned(tmp_path, 1)
    )
    assert "by 0:4095" in said


def test_a_constant_channel(tmp_path):
    images = noise(3, 20, 20, 3)
    for image in images:
        image[..., 1] = 7
    put(tmp_path, images)
    line = "channel 2 has one value in all 3 images looked at. Without it: --bands 1 3"
    assert line in warned(tmp_path)
    bands = [int(b) - 1 for b in re.search(r"--bands (.*)", line)[1].split()]
    again = scan(open_source(str(tmp_path), Decoding(2, tuple(bands))), 2)
    assert again.constant == ()


def test_many_unreadable_files(tmp_path):
    put(tmp_path, noise(19, 20, 20, 3))
    (tmp_path / "bad.png").write_text("no image")
    assert "cannot be read" not in warned(tmp_path)  # one of twenty
    (tmp_path / "worse.png").write_text("no image")
    said = warned(tmp_path)
    command = f"openmae data check {tmp_path}"
    assert f"2 of 21 images looked at cannot be read. Which, and why: {command}" in said


# Deep images, whose numbers come from what was kept of each file.


@pytest.mark.parametrize("bands", [(), (2, 0), (1,)])
@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_deep_statistics_are_those_of_the_samples(tmp_path, bands, kind):
    rng = np.random.default_rng(0)
    for i in range(4):
        image = rng.normal(900, 300, (30, 40 + i, 3)).clip(0).astype(kind)
        if kind == "float32":
            image[i, :5] = np.nan
        tifffile.imwrite(tmp_path / f"{i}.tif", image, photometric="rgb")
    count = len(bands) or 3
    source = open_source(str(tmp_path), Decoding(count, bands))
    found = scan(source, count)
    reads = source.decoded(Decoding(count, bands, found.value_range))
    pixels = np.concatenate([reads[i]["image"].reshape(-1, count) for i in range(4)])
    assert found.mean == pytest.approx(pixels.astype(np.float64).mean(axis=0), abs=2e-6)
    assert found.std == pytest.approx(pixels.astype(np.float64).std(axis=0), abs=2e-6)


def test_gray_of_chosen_bands(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 4000, (30, 40, 5), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", image, photometric="minisblack", planarconfig="contig")
    source = open_source(str(tmp_path), Decoding(1, (4, 2, 0)))
    found = scan(source, 1, value_range=(0, 4095))
    sample = source.decoded(Decoding(1, (4, 2, 0), (0, 4095)))[0]["image"]
    assert found.mean[0] == pytest.approx(float(sample.mean()), abs=1e-5)


def test_bands_that_some_files_lack(tmp_path):
    for i, count in enumerate((5, 5, 2)):
        image = np.random.default_rng(i).integers(0, 9000, (count, 30, 30), dtype=np.uint16)
        tifffile.imwrite(tmp_path / f"{i}.tif", image, metadata={"axes": "CYX"}, imagej=True)
    found = scan(open_source(str(tmp_path), Decoding(2, (3, 4))), 2)
    assert found.bad == [("2.tif", "has 2 bands, --bands asks for number 5")]


def test_a_second_look_reads_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("openmae.data.stamps._RACE", -(10**18))
    put(tmp_path, noise(5, 20, 20, 3))
    first = look(tmp_path)
    monkeypatch.setattr("openmae.data.folder.read_bytes", None)
    assert look(tmp_path) == first
    assert look(tmp_path, 1).mean == pytest.approx(
        [np.dot(first.mean, (0.299, 0.587, 0.114))], abs=3e-3
    )


def test_a_look_at_all_serves_the_look_before_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("openmae.data.stamps._RACE", -(10**18))
    put(tmp_path, noise(5, 20, 20, 3))
    survey(open_source(str(tmp_path)), range(5))
    monkeypatch.setattr("openmae.data.folder.read_bytes", None)
    assert look(tmp_path).looked == 5
