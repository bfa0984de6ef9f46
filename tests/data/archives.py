"""Small archives for tests: the same images as a folder, tar, shards and zip."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from openmae.data.source import Source


def png(number: int, size: tuple[int, int] = (9, 7)) -> bytes:
    """A PNG of noise that the number decides."""
    noise = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def photos(count: int = 12) -> dict[str, bytes]:
    """Names and files of three classes; in sorted order "a-b" stands before "a/"."""
    return {f"{('a', 'a-b', 'c')[i % 3]}/{i:02d}.png": png(i) for i in range(count)}


def folder(root: Path, files: dict[str, bytes]) -> Path:
    """Write them as files."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def header(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    """A member's header with other fields set."""
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tar(path: Path, files: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> Path:
    """Write them as a plain tar, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files.items():
            archive.addfile(header(name, len(data)), io.BytesIO(data))
    return path


def shards(root: Path, files: dict[str, bytes], per: int) -> Path:
    """Write them as tars 000.tar, 001.tar, ... of a folder, `per` files each."""
    items = list(files.items())
    for number, start in enumerate(range(0, len(items), per)):
        tar(root / f"{number:03d}.tar", dict(items[start : start + per]))
    return root


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write them as a zip."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def paths(source: Source) -> list[str]:
    """Of all images."""
    return [source.path(i) for i in range(len(source))]


def same(one: Source, other: Source) -> bool:
    """Whether samples and labels agree to the bit, in the same order."""
    assert len(one) == len(other)
    assert one.classes == other.classes
    assert one.labels.tolist() == other.labels.tolist()
    for index in range(len(one)):
        a, b = one[index], other[index]
        assert (a["label"], a["id"]) == (b["label"], b["id"])
        assert a["image"].dtype == b["image"].dtype
        assert a["image"].tobytes() == b["image"].tobytes()
        assert a["image"].shape == b["image"].shape
        assert tuple(one.header(index)) == tuple(other.header(index))
    return True
