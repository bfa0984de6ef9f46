"""The look at the data before a run: statistics, messages and their advice, nothing written."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from openmae.config import resolve
from openmae.config.pretrain import PretrainConfig
from openmae.config.training import pair
from openmae.data.check import check_fits, check_size, scan
from openmae.data.sources import open_source
from openmae.data.values import Decoding
from openmae.errors import DataError


def put(root, images: list[np.ndarray], start: int = 0) -> None:
    root.mkdir(exist_ok=True)
    for i, image in enumerate(images, start):
        Image.fromarray(image).save(root / f"{i:03d}.png")


def noise(count: int, *shape: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]


def deep() -> list[np.ndarray]:
    return [image.astype(np.uint16) * 16 for image in noise(3, 9, 9)]


def look(root, channels: int = 3, **more):
    return scan(open_source(str(root), Decoding(channels)), channels, **more)


# Statistics.


def test_mean_and_std_are_numpys(tmp_path):
    images = [*noise(5, 20, 30, 3), *noise(3, 40, 16, 3)]
    images = [(image // np.array([1, 2, 3])).astype(np.uint8) for image in images]
    put(tmp_path, images)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    found = look(tmp_path)
    assert found.mean == pytest.approx(pixels.mean(0), abs=1e-6)
    assert found.std == pytest.approx(pixels.std(0), abs=1e-6)
    assert (found.count, found.looked) == (8, 8)
    assert found.channels == {3: 8}


def test_large_images_are_thinned(tmp_path):
    image = noise(1, 700, 600, 3)[0]
    put(tmp_path, [image])
    pixels = image[::2, ::2].reshape(-1, 3) / 255
    assert look(tmp_path).mean == pytest.approx(pixels.mean(0), abs=1e-6)


def test_a_constant_channel_stays_finite(tmp_path):
    image = noise(1, 20, 20, 3)[0]
    image[..., 1] = 51
    put(tmp_path, [image])
    found = look(tmp_path)
    assert found.mean[1] == pytest.approx(0.2, abs=1e-6)
    assert found.std[1] == 1.0
    assert min(found.std[0], found.std[2]) > 0.2


def test_gray_from_colour(tmp_path):
    put(tmp_path, noise(4, 20, 20, 3))
    found = look(tmp_path, channels=1)
    assert (len(found.mean), len(found.std)) == (1, 1)
    assert 0.4 < found.mean[0] < 0.6


def test_a_look_is_evenly_spaced(tmp_path):
    put(tmp_path, [np.full((4, 4, 3), i, np.uint8) for i in range(21)])
    found = look(tmp_path, look=5)
    assert (found.count, found.looked) == (21, 5)
    assert found.mean[0] == pytest.approx(np.mean([0, 5, 10, 15, 20]) / 255, abs=1e-6)


def test_sizes(tmp_path):
    put(tmp_path, [*noise(2, 20, 30, 3), *noise(1, 40, 16, 3)])
    found = look(tmp_path, measure=False)
    assert (found.heights, found.widths) == ([20, 20, 40], [30, 30, 16])
    assert found.short_side == 20
    assert found.decoded_bytes == pytest.approx((600 + 600 + 640) * 3)
    assert found.sentence() == "sizes 16x20 .. 30x40, 3-channel 8-bit"
    assert (found.mean, found.std) == ((), ())


def test_sentence_of_equal_sizes(tmp_path):
    put(tmp_path, noise(2, 20, 30))
    assert look(tmp_path, 1, measure=False).sentence() == "sizes 30x20, 1-channel 8-bit"


# Channels.


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((9, 9), 3, "Images have 1 channel (all 4), model expects 3. Add --channels 1"),
        ((9, 9, 3), 5, "Images have 3 channels (all 4), model expects 5. Add --channels 3"),
    ],
)
def test_other_channels(tmp_path, shape, channels, message):
    put(tmp_path, noise(4, *shape))
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        look(tmp_path, channels)
    advice = int(re.search(r"--channels (\d)", message)[1])
    assert look(tmp_path, advice).channels == {advice: 4}


def test_a_model_that_is_there_has_no_option_for_channels(tmp_path):
    """Gray images go into a colour model, as the documentation says; the advice for others can be
    followed.
    """
    put(tmp_path / "gray", noise(4, 9, 9))
    put(tmp_path / "colour", noise(4, 9, 9, 3))
    assert check_fits(open_source(str(tmp_path / "gray")), 3).about_range() == []
    with pytest.raises(DataError, match=r"expects 5\. Give such images, or a model of 3$"):
        check_fits(open_source(str(tmp_path / "colour")), 5)


def test_values_that_a_model_does_not_read(tmp_path):
    many, shallow = tmp_path / "deep", tmp_path / "shallow"
    put(shallow, noise(3, 9, 9))
    put(many, deep())
    with pytest.raises(DataError, match="Images are uint16, model expects 8-bit ones"):
        check_fits(open_source(str(many)), 1)
    reads = Decoding(1, value_range=(0.0, 4095.0))
    (line,) = check_fits(open_source(str(shallow), reads), 1).about_range()
    assert line.startswith("3 of 3 images are 8-bit: 8-bit values are scaled by 255")
    assert check_fits(open_source(str(many), reads), 1).value_range == (0.0, 4095.0)


def test_a_value_range_of_another_scale_is_not_taken_in_silence(tmp_path):
    put(tmp_path, deep())
    source = open_source(str(tmp_path))
    (line,) = scan(source, 1, value_range=(0.0, 1.0)).about_range()
    assert "far outside of the value range 0:1. A run without --value-range finds it" in line
    for fits in (None, (0.0, 65535.0), (0.0, 4095.0)):
        assert scan(source, 1, value_range=fits).about_range() == []


def test_mixed_channels(tmp_path):
    put(tmp_path, [*noise(3, 9, 9, 3), *noise(1, 9, 9)])
    assert look(tmp_path).channels == {3: 3, 1: 1}
    with pytest.raises(DataError, match=r"^Images have 3 channels \(3 of 4\), model expects 5\."):
        look(tmp_path, 5)


# Sizes.


def measured(root, sides: list[int]):
    put(root, [np.zeros((side, side + 3, 3), np.uint8) for side in sides])
    return look(root, measure=False)


@pytest.mark.parametrize("sides", [[28] * 5, [8] * 3, [1, 1], [5, 30, 31], [32] * 2, [7, 7, 90]])
def test_small_images_and_the_advice(tmp_path, sides):
    found = measured(tmp_path, sides)
    small = sum(s <= 32 for s in sides)
    with pytest.raises(DataError) as error:
        check_size(found, (224, 224))
    text = str(error.value)
    assert text.startswith(
        f"{small} of {len(sides)} images are at most 32 px (median {sorted(sides)[len(sides) // 2]}"
        " px), image-size is 224. Try "
    )
    size, patch = re.search(r"Try --image-size (\d+) --patch-size (\d+)$", text).groups()
    config = resolve(PretrainConfig, {"data": "x", "image_size": size, "patch_size": patch})
    assert check_size(found, pair(config.image_size)) is None


@pytest.mark.parametrize(
    ("sides", "size"), [([28] * 5, (32, 32)), ([33] * 5, (224, 224)), ([20, 90, 90], (224, 224))]
)
def test_sizes_that_pass(tmp_path, sides, size):
    assert check_size(measured(tmp_path, sides), size) is None


# Unreadable files, and nothing written.


def test_bad_files_are_listed(tmp_path):
    put(tmp_path, noise(6, 20, 20, 3))
    (tmp_path / "001.png").write_text("no image")
    whole = (tmp_path / "004.png").read_bytes()
    (tmp_path / "004.png").write_bytes(whole[: len(whole) // 2])  # its header is still there
    found = look(tmp_path)
    assert found.bad == [
        ("001.png", "not an image of a known format"),
        ("004.png", "image file is truncated"),
    ]
    assert len(found.heights) == 5
    assert len(found.mean) == 3


@pytest.mark.parametrize("measure", [True, False])
def test_nothing_readable(tmp_path, measure):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(DataError) as error:
        look(tmp_path, measure=measure)
    assert str(error.value) == (
        f"None of 2 images in {tmp_path} can be read. First: a.png: not an image of a known format"
    )


def test_headers_alone_are_readable(tmp_path):
    put(tmp_path, noise(2, 20, 20, 3))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"^None of 2 images .* Last: 001.png: image file is trunc"):
        look(tmp_path)


def test_a_scan_never_writes(tmp_path):
    put(tmp_path, noise(3, 20, 20, 3))
    (tmp_path / "bad.png").write_text("no image")

    def state() -> dict:
        paths = [tmp_path, *tmp_path.iterdir()]
        stats = {p: (p.stat().st_mtime_ns, p.stat().st_mode, p.stat().st_size) for p in paths}
        return {p: (s, p.read_bytes() if p.is_file() else b"") for p, s in stats.items()}

    before = state()
    assert look(tmp_path).looked == 4
    assert state() == before
