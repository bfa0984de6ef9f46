"""Small sets of every kind of image, and packing them without the command line."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image

from openmae.cli import main
from openmae.data.packed import PackedSource
from openmae.data.packing import Packer
from openmae.data.packjob import job_of
from openmae.data.records import Form
from openmae.data.source import Source
from openmae.data.values import Decoding

KINDS = {
    "rgb": Decoding(channels=3),
    "gray": Decoding(channels=1),
    "deep": Decoding(channels=1, value_range=(0, 4095), mean=(0.4,), std=(0.2,)),
    "float": Decoding(channels=1, value_range=(-30, 5)),
    "bands": Decoding(channels=3, bands=(12, 0, 5), value_range=(0, 10000)),
}
"""Names of sets, and how each is read."""


def noise(seed: int, *shape: int) -> np.ndarray:
    """Bytes without structure, the hardest for any coder."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A colour image that JPEG keeps well."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 100 * np.sin(x / 17 + seed), 128 + 90 * np.cos(y / 23), 90 + (x + y) / 8]
    return np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)


def make_set(kind: str, root: Path, count: int = 12) -> Path:
    """Files in two class folders."""
    for i in range(count):
        folder = root / ("cat" if i % 2 else "dög")
        folder.mkdir(parents=True, exist_ok=True)
        shape, rng = (20 + i, 30 - i), np.random.default_rng(i)
        if kind == "rgb" and i % 3 == 0:
            Image.fromarray(noise(i, *shape, 3)).save(folder / f"{i}.jpg")
        elif kind == "rgb":
            Image.fromarray(noise(i, *shape, 3)).save(folder / f"{i}.png")
        elif kind == "gray":
            Image.fromarray(noise(i, *shape)).save(folder / f"{i}.png")
        elif kind == "deep":
            image = rng.integers(0, 4096, shape, dtype=np.uint16)
            tifffile.imwrite(folder / f"{i}.tif", image, byteorder=">" if i % 3 else "<")
        elif kind == "float":
            image = rng.normal(-12, 5, shape).astype(np.float32)
            tifffile.imwrite(folder / f"{i}.tif", image)
        else:
            image = rng.integers(0, 10000, (*shape, 13), dtype=np.uint16)
            tifffile.imwrite(folder / f"{i}.tif", image, photometric="minisblack", planarconfig=1)
    return root


def make_photos(root: Path) -> Path:
    """Two classes of photos of 60x90."""
    for i in range(6):
        folder = root / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth(60, 90, i)).save(folder / f"{i}.jpg", quality=95)
    return root


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


def command(capsys, *words: object) -> Said:
    """Run a command; an error has at most four lines and no traceback."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert not code or 1 <= len(err.splitlines()) <= 4
    return Said(code, out, err)


def pack(
    source: Source, out: Path, mode: str = "lossless", shard_bytes: int = 4000, side: int = 0
) -> PackedSource:
    """As `openmae pack` does, read as the source is."""
    form = Form(mode, side, 90 if side else 0, shard_bytes)
    packer = Packer(source.decoded(Decoding()), out, form, job_of(source, form))
    with packer.locked():
        packer.begin()
        assert packer.write(0, lambda: None, lambda images, size: None) is None
        packer.check()
        packer.finish()
    return PackedSource(out, source.decoding)
