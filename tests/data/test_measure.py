"""What is said and measured of one file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from openmae.data.measure import Columns, measure
from openmae.data.sources import open_source
from openmae.data.survey import survey
from openmae.data.traits import BAD, Flag


def noise(*shape: int, seed: int = 0, top: int = 256, kind=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape).astype(kind)


def picture(*shape: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(noise(*shape, seed=seed))


def bits(array: np.ndarray, **more) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **more)
    return file.getvalue()


def encoded(image: Image.Image, kind: str, **more) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(40, 60, 3), "JPEG", exif=exif)


FRAMES = [picture(40, 40, 3, seed=s) for s in range(3)]
PNG = encoded(picture(40, 50, 3), "PNG")
FLOAT = noise(40, 40, kind=np.float32)
HOLES = np.where(np.eye(40, dtype=bool), np.nan, FLOAT)
KINDS = {
    "plain.png": (PNG, Flag(0)),
    "empty.png": (b"", Flag.EMPTY),
    "text.jpg": (b"no image at all", Flag.UNREADABLE),
    "cut.png": (PNG[: len(PNG) // 2], Flag.TRUNCATED),
    "cut.jpg": (encoded(picture(90, 90, 3), "JPEG")[:3000], Flag.TRUNCATED),
    "cut.tif": (bits(noise(90, 90))[:3000], Flag.TRUNCATED),
    "tiny.png": (encoded(picture(31, 200, 3), "PNG"), Flag.TINY),
    "small.png": (encoded(picture(32, 200, 3), "PNG"), Flag(0)),
    "flat.png": (encoded(Image.new("RGB", (40, 40), (9, 9, 9)), "PNG"), Flag.CONSTANT),
    "moving.gif": (
        encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
        Flag.ANIMATED | Flag.PALETTE,
    ),
    "moving.webp": (
        encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
        Flag.ANIMATED,
    ),
    "pages.tif": (bits(noise(5, 40, 40), photometric="minisblack"), Flag.PAGES),
    "alpha.png": (encoded(picture(40, 40, 4), "PNG"), Flag.ALPHA),
    "palette.png": (encoded(FRAMES[0].quantize(16), "PNG"), Flag.PALETTE),
    "cmyk.jpg": (encoded(FRAMES[0].convert("CMYK"), "JPEG"), Flag.CMYK),
    "turned.jpg": (turned(6), Flag.TURNED),
    "upright.jpg": (turned(1), Flag(0)),
    "really-a.jpg": (PNG, Flag.EXTENSION),
    "bands.tif": (bits(noise(40, 40, 6), planarconfig="contig"), Flag(0)),
    "holes.tif": (bits(HOLES), Flag.NO_DATA),
    "usual.tif": (bits(np.where(np.eye(40, dtype=bool), -9999, FLOAT)), Flag.NO_DATA),
    "declared.tif": (
        bits(noise(40, 40, kind=np.uint16), extratags=[(42113, 2, 0, "0", True)]),
        Flag.NO_DATA,
    ),
    "all-holes.tif": (bits(np.full((40, 40), np.nan, np.float32)), Flag.UNREADABLE),
    "infinite.tif": (bits(np.where(np.eye(40, dtype=bool), np.inf, FLOAT)), Flag.NO_DATA),
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    for name, (data, _) in KINDS.items():
        (root / name).write_bytes(data)
    return open_source(str(root))


@pytest.mark.parametrize("name", KINDS)
def test_what_is_said_of_a_file(name, kinds):
    row = [kinds.path(i) for i in range(len(kinds))].index(name)
    found = measure(kinds, row)
    assert found.flags == KINDS[name][1], f"{found.flags!r} {found.reason}"
    assert bool(found.reason) == bool(found.flags & BAD)
    if found.reason:
        assert len(found.stats) == 0
    else:
        assert found.header[:2] == kinds.raw(row).shape[:2]
        assert found.header.dtype == str(kinds.raw(row).dtype)


def test_a_bomb(tmp_path):
    data = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    data[18:26] = (30_000).to_bytes(4, "little") * 2
    (tmp_path / "x.bmp").write_bytes(bytes(data))
    assert measure(open_source(str(tmp_path)), 0).flags & Flag.BOMB


def test_a_turned_image_is_measured_upright(tmp_path):
    (tmp_path / "x.jpg").write_bytes(turned(6))
    header = measure(open_source(str(tmp_path)), 0).header
    assert (header.height, header.width) == (60, 40)


@pytest.mark.parametrize(
    "image",
    [
        noise(40, 50, 3),
        noise(40, 50, 1),
        noise(700, 600, 3),
        noise(40, 50, 13, top=4096, kind=np.uint16),
        noise(30, 30, 2, kind=np.float64) * 1e-9 + 1e6,
        noise(30, 30, 2, top=2, kind=np.bool_),
        noise(30, 30, 3, kind=np.int32) - 300,
    ],
)
def test_numbers_are_numpys(image, tmp_path):
    np.save(tmp_path / "x.npy", image[None])
    found = measure(open_source(str(tmp_path / "x.npy")), 0)
    values = image * np.uint8(255) if image.dtype == bool else image
    count = image.shape[2]
    stats = found.stats[:count]
    assert stats[:, Columns.LOW].tolist() == values.min(axis=(0, 1)).tolist()
    assert stats[:, Columns.HIGH].tolist() == values.max(axis=(0, 1)).tolist()
    step = max(1, min(image.shape[:2]) // 256)
    thin = values[::step, ::step].reshape(-1, count).astype(np.float64)
    assert stats[:, Columns.MEAN] == pytest.approx(thin.mean(axis=0), rel=1e-12)
    variance = stats[:, Columns.SQUARES] / stats[:, Columns.COUNT]
    assert variance == pytest.approx(thin.var(axis=0), rel=1e-9)
    assert len(found.stats) == count + (count in (3, 4))


def test_extremes_are_of_all_pixels(tmp_path):
    image = np.full((700, 700, 1), 9, np.uint16)
    image[1, 1], image[3, 5] = 3, 60000  # no pixel of the grid that is averaged
    np.save(tmp_path / "x.npy", image[None])
    stats = measure(open_source(str(tmp_path / "x.npy")), 0).stats
    assert stats[0, [Columns.LOW, Columns.HIGH, Columns.MEAN]].tolist() == [3, 60000, 9]


def test_what_is_no_number_does_not_count(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", HOLES)
    stats = measure(open_source(str(tmp_path)), 0).stats[0]
    assert stats[Columns.MISSING] == 40
    assert stats[Columns.COUNT] == 40 * 39
    assert stats[Columns.MEAN] == pytest.approx(np.nanmean(HOLES.astype(np.float64)))
    assert stats[Columns.HIGH] == np.nanmax(HOLES)


def test_names_of_bands(tmp_path):
    names = ["B02", "B03 <b>"]
    meta = {"axes": "CYX", "Channel": {"Name": names}}
    tifffile.imwrite(
        tmp_path / "x.ome.tif", noise(2, 40, 40), metadata=meta, photometric="minisblack"
    )
    table, _ = survey(open_source(str(tmp_path)), [0])
    assert table.bands[0].split("\t") == names
