"""Objects as one mask file each: a folder an image, with images/ and masks/ in it, as the Data
Science Bowl 2018 has it. All objects are of one class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.decode import SUFFIXES, decode, read_bytes, read_header
from openmae.data.objects import Findings, Objects, Picture, Thing, add
from openmae.data.rle import runs
from openmae.errors import DataError

CLASS = "object"


def holder(root: Path) -> Path | None:
    """The folder that holds such folders: this one, or the only one below it that does."""
    inside = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if any(_is_one(p) for p in inside):
        return root
    deeper = [p for p in inside if any(_is_one(q) for q in p.iterdir() if q.is_dir())]
    return deeper[0] if len(deeper) == 1 else None


def _is_one(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def read_instances(root: Path) -> Objects:
    """The objects of a folder of such folders. Every mask is read once, here.

    Raises:
        DataError: no image there has objects.
    """
    findings = Findings()
    pictures: list[Picture] = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        if not _is_one(folder):
            findings.note("folders have no images/ and masks/: left out", folder.name)
            continue
        files = [p for p in sorted((folder / "images").iterdir()) if p.suffix.lower() in SUFFIXES]
        if len(files) != 1:
            findings.note("folders have not exactly one image: left out", folder.name)
            continue
        try:
            header = read_header(read_bytes(files[0]))
        except DataError as error:
            findings.note(f"images cannot be read ({error}): left out", folder.name)
            continue
        name = files[0].relative_to(root).as_posix()
        picture = Picture(name, header.height, header.width, id=folder.name)
        pictures.append(picture)
        _masks(folder, picture, findings)
    if not any(p.things for p in pictures):
        more = findings.lines()
        raise DataError(f"{root} has no objects" + (f": {more[0]}" if more else ""))
    return Objects(root, pictures, [CLASS], findings)


def _masks(folder: Path, picture: Picture, findings: Findings) -> None:
    seen: set[Any] = set()
    for file in sorted(p for p in (folder / "masks").iterdir() if p.suffix.lower() in SUFFIXES):
        where = f"{folder.name}/masks/{file.name}"
        try:
            mask: NDArray[np.bool_] = np.asarray((decode(file) > 0).any(-1))
        except DataError as error:
            findings.note(f"masks cannot be read ({error}): dropped", where)
            continue
        if mask.shape != (picture.height, picture.width):
            findings.note("masks are of another size than their image: dropped", where)
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            findings.note("masks are empty: dropped", where)
            continue
        box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        x1, y1, x2, y2 = (float(v) for v in box)
        thing = Thing((x1, y1, x2, y2), 0, counts=runs(mask), area=float(mask.sum()))
        add(picture, thing, seen, where, findings)
