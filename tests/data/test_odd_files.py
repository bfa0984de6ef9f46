"""Odd files have one documented outcome each: those of a folder of real ones by a committed table,
and generated ones in a folder that is read as a user's is.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_files import FILES, SMOOTH, by_pillow, by_tifffile, deep, gif, noise, smooth

from openmae.data import open_source
from openmae.data.decode import read_bytes
from openmae.errors import DataError

HERE = Path(__file__).parent
DATA = os.environ.get("OPENMAE_DATA")
GIGABYTE = 1024**2  # in kB
needs_data = pytest.mark.skipif(
    not DATA or not Path(DATA, "odd").is_dir(), reason="OPENMAE_DATA names no folder with odd/"
)


def describe(paths: list[Path]) -> list[dict[str, str]]:
    """What each file is, decoded in a process of its own with 3 GB of address space."""
    command = [sys.executable, str(HERE / "decoding_child.py"), "describe", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def digest(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def table() -> list[dict[str, str]]:
    lines = (HERE / "odd_outcomes.tsv").read_text().splitlines()
    return list(csv.DictReader(lines[1:], delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_table_is_whole():
    rows = table()
    assert len({r["file"] for r in rows}) == 98
    assert {r["outcome"] for r in rows} == {"read", "refused"}
    assert all((r["reason"] == "-") == (r["outcome"] == "read") for r in rows)


@needs_data
def test_odd_files():
    folder = Path(str(DATA), "odd")
    before = digest(folder)
    rows = table()
    found = describe([folder / row["file"] for row in rows])
    wrong = []
    for row, got in zip(rows, found, strict=True):
        assert int(got["memory"]) < GIGABYTE
        for key in ("outcome", "shape", "dtype", "reason", "sha256"):
            if row[key] != "-" and row[key] != got.get(key):
                wrong.append((row["file"], key, row[key], got.get(key)))
        if row["mean"] != "-" and abs(float(row["mean"]) - float(got["mean"])) > 0.5:
            wrong.append((row["file"], "mean", row["mean"], got["mean"]))
    assert wrong == []
    assert digest(folder) == before


@needs_data
def test_multiband_files():
    folder = Path(str(DATA), "multiband")
    wanted = {
        "terramind/S2L1C": ("224x224x13", "int16"),
        "terramind/S1RTC": ("224x224x2", "float64"),
        "terramind/LULC": ("224x224x1", "uint8"),
        "cellprofiler/ExampleUntangleWorms": ("520x696x1", "uint16"),
        "stardist": ("512x512x1", "uint16"),
    }
    files = [
        (p, want) for name, want in wanted.items() for p in sorted((folder / name).glob("*.tif"))
    ]
    assert len(files) == 10
    for (_, (shape, kind)), got in zip(files, describe([p for p, _ in files]), strict=True):
        assert (got["shape"], got["dtype"]) == (shape, kind)


# Generated.


def tiny_names() -> dict[str, bytes]:
    """Names that are hard: not UTF-8, of 300 bytes with the folders, equal but for their case."""
    one = by_pillow(SMOOTH, "PNG")
    long = f"{'a' * 200}/{'b' * 100}.png"
    return {
        "case.png": one,
        "CASE.PNG": one,
        long: one,
        "caf\udce9.png": one,
        "two words'\".png": one,
    }


def flipped() -> bytes:
    data = bytearray(by_pillow(SMOOTH, "PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def bomb(side: int) -> bytes:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return by_pillow(Image.new("1", (side, side)), "PNG")
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def generated() -> dict[str, tuple[bytes, tuple[int, ...] | str]]:
    """Name -> file, and its shape or the reason of its refusal."""
    palette = SMOOTH.quantize(16)
    found: dict[str, tuple[bytes, tuple[int, ...] | str]] = {
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"a letter, not a picture", "not an image of a known format"),
        "flipped.png": (flipped(), "broken|checksum|decod"),
        "wrong.jpg": (by_pillow(SMOOTH, "PNG"), (40, 56, 3)),
        "cmyk.jpg": (by_pillow(SMOOTH.convert("CMYK"), "JPEG"), (40, 56, 3)),
        "la.png": (by_pillow(SMOOTH.convert("LA"), "PNG"), (40, 56, 1)),
        "palpha.png": (by_pillow(palette, "PNG", transparency=3), (40, 56, 3)),
        "bit.png": (by_pillow(SMOOTH.convert("1"), "PNG"), (40, 56, 1)),
        "deep.png": (FILES["png-16"](), (40, 56, 1)),
        "float.tif": (by_tifffile(smooth()[..., 0] / np.float32(255)), (40, 56, 1)),
        "four.tif": (FILES["tiff-big"](), (40, 56, 4)),
        "five.tif": (FILES["tiff-deflate"](), (40, 56, 5)),
        "moving.gif": (gif(), (40, 56, 3)),
        "1x1.png": (by_pillow(Image.fromarray(noise(1, 1, 3)), "PNG"), (1, 1, 3)),
        "5x5.png": (by_pillow(Image.fromarray(noise(5, 5, 3)), "PNG"), (5, 5, 3)),
        "wide.png": (by_pillow(Image.fromarray(noise(1, 10000)), "PNG"), (1, 10000, 1)),
        "high.tif": (by_tifffile(deep(10000, 1), photometric="minisblack"), (10000, 1, 1)),
        "bomb400.png": (bomb(20000), "more than 89,478,485 pixels"),
        "bomb121.png": (bomb(11000), "more than 89,478,485 pixels"),
    }
    for number in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = number
        shape = (40, 56, 3) if number < 5 else (56, 40, 3)
        found[f"exif{number}.jpg"] = (by_pillow(SMOOTH, "JPEG", exif=exif), shape)
    for name, whole in (
        ("jpg", FILES["jpeg"]()),
        ("tif", FILES["tiff"]()),
        ("png", FILES["png-16"]()),
    ):
        for part in range(10):
            cut = whole[: len(whole) * (part + 1) // 11]
            found[f"cut{part}.{name}"] = (cut, ".")
    found.update({name: (data, (40, 56, 3)) for name, data in tiny_names().items()})
    return found


def test_generated_files_through_a_folder(tmp_path):
    folder = tmp_path / "photos"
    files = generated()
    for name, (data, _) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "x.jpg").mkdir()
    (folder / "loop").symlink_to(folder)
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    os.mkfifo(folder / "pipe.jpg")
    before = digest(folder)
    source = open_source(str(folder))
    paths = {source.path(i): i for i in range(len(source))}
    assert set(paths) == set(files)
    for name, (_, want) in files.items():
        if isinstance(want, str):
            with pytest.raises(DataError, match=want):
                source.raw(paths[name])
        else:
            assert source.raw(paths[name]).shape == want, name
            assert source.header(paths[name])[:3] == want, name
    assert digest(folder) == before


@pytest.mark.timeout(20)
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"^not a regular file$"):
        read_bytes(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    with pytest.raises(DataError, match="symbolic links"):
        read_bytes(tmp_path / "loop.jpg")
    with pytest.raises(DataError, match="File name too long"):
        read_bytes(tmp_path / ("a" * 300))
    with pytest.raises(DataError, match="null"):
        read_bytes(tmp_path / "a\0b")


def test_a_file_of_many_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "x.tif").open("wb") as stream:
        stream.truncate(3 * 1024**3)  # takes no room
    with pytest.raises(DataError, match=r"^a file of 3.0 GiB, more than 2 GiB$"):
        read_bytes(tmp_path / "x.tif")


@pytest.mark.parametrize("kinds", ["tif", pytest.param("png jpg gif", marks=pytest.mark.slow)])
def test_large_pictures_take_less_than_a_gigabyte(tmp_path, kinds):
    """Just below the limit of pixels, from a few kilobytes."""
    large = Image.new("RGB", (9400, 9400), (10, 200, 30))
    flat = np.zeros((9400, 9400), np.uint16)
    options = {"compression": "zlib", "rowsperstrip": 9400, "photometric": "miniswhite"}
    make = {
        "png": lambda: by_pillow(large, "PNG", compress_level=1),
        "jpg": lambda: by_pillow(large, "JPEG", progressive=True, quality=30),
        "gif": lambda: by_pillow(large.quantize(4), "GIF"),
        "tif": lambda: by_tifffile(flat, predictor=2, **options),
    }
    for kind in kinds.split():
        (tmp_path / f"x.{kind}").write_bytes(make[kind]())
    found = describe(sorted(tmp_path.iterdir()))
    assert [f["outcome"] for f in found] == ["read"] * len(found)
    assert max(int(f["memory"]) for f in found) < GIGABYTE
