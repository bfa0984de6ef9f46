"""Files to arrays: which pixels, whose channels, and what is refused in which words."""

from __future__ import annotations

import logging
import warnings

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from sample_files import by_pillow, deep, noise, smooth

from openmae.data.decode import decode, read_bytes, read_header
from openmae.data.values import Decoding
from openmae.errors import DataError


def turned_tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def header(path):
    return read_header(read_bytes(path))


def check(path, shape: tuple[int, int, int], channels: int | None = None) -> np.ndarray:
    """Decode, and require the shape, the type, the header's word and that nothing warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array = decode(path, Decoding(channels))
        found = header(path)
    assert array.shape == shape
    assert array.dtype == np.uint8
    if channels is None:
        assert found[:4] == (*shape, "uint8")
    return array


# The formats of Pillow.

MODES = {
    "RGB": (noise(9, 13, 3), 3),
    "L": (noise(9, 13), 1),
    "LA": (noise(9, 13, 2), 1),
    "RGBA": (noise(9, 13, 4), 3),
    "1": (noise(9, 13) > 127, 1),
}


@pytest.mark.parametrize("mode", MODES)
def test_png_modes(tmp_path, mode):
    array, channels = MODES[mode]
    Image.fromarray(array).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as stored:
        assert stored.mode == mode
    got = check(tmp_path / "x.png", (9, 13, channels))
    want = array.astype(np.uint8) * (255 if mode == "1" else 1)
    assert np.array_equal(got, want.reshape(9, 13, -1)[..., :channels])  # alpha is dropped


@pytest.mark.parametrize("suffix", ["png", "gif", "tif"])
def test_palette_becomes_rgb(tmp_path, suffix):
    palette = Image.fromarray(noise(9, 13, 3)).quantize(16)
    palette.save(tmp_path / f"x.{suffix}")
    got = check(tmp_path / f"x.{suffix}", (9, 13, 3))
    assert np.array_equal(got, np.array(palette.convert("RGB")))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    cmyk = Image.fromarray(smooth()).convert("CMYK")
    cmyk.save(tmp_path / f"x.{suffix}")
    got = check(tmp_path / f"x.{suffix}", (40, 56, 3))
    assert np.abs(got.astype(int) - smooth().astype(int)).mean() < 6


@pytest.mark.parametrize(("suffix", "more"), [("bmp", {}), ("ppm", {}), ("webp", {"lossless": 1})])
def test_other_lossless_formats(tmp_path, suffix, more):
    Image.fromarray(noise(9, 13, 3)).save(tmp_path / f"x.{suffix}", **more)
    assert np.array_equal(check(tmp_path / f"x.{suffix}", (9, 13, 3)), noise(9, 13, 3))


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (13, 9), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "x.gif") as stored:
        assert stored.n_frames == 3
    assert np.array_equal(check(tmp_path / "x.gif", (9, 13, 3))[0, 0], [255, 0, 0])


@pytest.mark.parametrize("have", ["gray", "colour"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_gray_and_colour_are_converted(tmp_path, have, suffix):
    image = Image.fromarray(smooth() if have == "colour" else smooth()[..., 1])
    image.save(tmp_path / f"x.{suffix}")
    colour = check(tmp_path / f"x.{suffix}", (40, 56, 3), channels=3).astype(int)
    gray = check(tmp_path / f"x.{suffix}", (40, 56, 1), channels=1).astype(int)
    if have == "gray":
        assert np.array_equal(colour, gray.repeat(3, axis=2))
    else:
        assert np.abs(gray[..., 0] - np.array(image.convert("L"), dtype=int)).max() <= 4


def test_no_other_number_of_channels_is_converted(tmp_path):
    Image.fromarray(noise(9, 13, 3)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"^has 3 channels, not 5$"):
        decode(tmp_path / "x.png", Decoding(5))


# JPEG.


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [50, 95])
def test_jpeg_equals_pillow(tmp_path, subsampling, quality):
    image = Image.fromarray(smooth(61, 47))
    image.save(tmp_path / "x.jpg", quality=quality, subsampling=subsampling)
    with Image.open(tmp_path / "x.jpg") as stored:
        want = np.array(stored.convert("RGB")).astype(int)
    got = check(tmp_path / "x.jpg", (61, 47, 3)).astype(int)
    assert np.abs(got - want).max() <= 2
    assert np.abs(got - want).mean() < 0.1


def test_progressive_and_gray_jpeg(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "p.jpg", progressive=True, quality=95)
    Image.fromarray(smooth()[..., 0]).save(tmp_path / "g.jpg", quality=95)
    colour, gray = check(tmp_path / "p.jpg", (40, 56, 3)), check(tmp_path / "g.jpg", (40, 56, 1))
    assert np.abs(colour.astype(int) - smooth()).max() <= 12
    assert np.abs(gray[..., 0].astype(int) - smooth()[..., 0]).max() <= 6


# Orientation.

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation, suffix):
    path = tmp_path / f"x.{suffix}"
    more = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(smooth()).save(path, exif=turned_tag(orientation), **more)
    want = UPRIGHT[orientation](smooth())
    got = check(path, want.shape)
    assert np.abs(got.astype(int) - want).max() <= (8 if suffix == "jpg" else 0)


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\xff\xff"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_broken_exif_block_costs_nothing(tmp_path, block, suffix):
    Image.fromarray(smooth()).save(tmp_path / f"x.{suffix}", exif=block, **({"quality": 95}))
    got = check(tmp_path / f"x.{suffix}", (40, 56, 3))
    assert np.abs(got.astype(int) - smooth()).max() <= 12


# Refused, with the reason.


def encoded(suffix: str) -> bytes:
    return by_pillow(Image.fromarray(noise(40, 50, 3)), suffix)


def refusal(path) -> str:
    """The reason; warnings are errors here, so none leaks."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError) as found:
            decode(path)
    return str(found.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_png_needs_a_value_range(tmp_path, channels):
    image = deep(9, 13, channels)
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(image))
    assert refusal(tmp_path / "x.png").startswith("uint16 values where 8-bit ones are read")
    assert header(tmp_path / "x.png") == (9, 13, channels, "uint16", "PNG")
    got = decode(tmp_path / "x.png", Decoding(channels, value_range=(0, 65535)))
    assert got.dtype == np.float32
    assert np.array_equal(np.rint(got.astype(np.float64) * 65535), image)


@pytest.mark.parametrize("suffix", ["jpeg", "png", "gif", "bmp", "ppm", "webp", "tiff"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated(tmp_path, suffix, share, caplog, capfd):
    whole = encoded(suffix)
    (tmp_path / "x.img").write_bytes(whole[: int(share * len(whole))])
    with caplog.at_level(logging.DEBUG):
        reason = refusal(tmp_path / "x.img")
    assert 5 < len(reason) <= 200
    assert "\n" not in reason
    assert [r for r in caplog.records if r.name.startswith("tifffile")] == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["jpeg", "png", "tiff"])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 8, 16, 25, 30])
def test_stumps(tmp_path, suffix, length):
    (tmp_path / "x.img").write_bytes(encoded(suffix)[:length])
    assert refusal(tmp_path / "x.img")
    with pytest.raises(DataError):
        header(tmp_path / "x.img")


@pytest.mark.parametrize("read", [decode, header])
def test_not_an_image(tmp_path, read):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("a letter, not a picture")
    (tmp_path / "folder.jpg").mkdir()
    cases = {
        "empty": "^empty file$",
        "text": "^not an image of a known format$",
        "folder": "^Is a directory$",
        "absent": "^No such file or directory$",
    }
    for name, reason in cases.items():
        with pytest.raises(DataError, match=reason):
            read(tmp_path / f"{name}.jpg")


@pytest.mark.parametrize("read", [decode, header])
@pytest.mark.parametrize(("side", "suffix"), [(9600, "jpg"), (9600, "png"), (20000, "png")])
def test_bomb(tmp_path, read, side, suffix):
    Image.new("1" if suffix == "png" else "L", (side, side)).save(tmp_path / f"x.{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"more than 89,478,485 pixels$"):
            read(tmp_path / f"x.{suffix}")
    assert (tmp_path / f"x.{suffix}").stat().st_size < 2_000_000
