"""Objects of YOLO: images/ and labels/ side by side, a text file an image, a line an object: the
class, then centre and size, or the points of a polygon, all as shares of the image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from openmae.data.decode import SUFFIXES, read_bytes, read_header
from openmae.data.objects import Findings, Objects, Picture, Thing, add, cut_box, relative_files
from openmae.data.rle import is_number, polygons_of
from openmae.errors import DataError

_LARGEST = 1_000_000  # bytes of a file of names, or of labels
_MOST_CLASSES = 100_000


def is_yolo(root: Path) -> bool:
    """Whether a folder is laid out so."""
    return (root / "labels").is_dir() and (root / "images").is_dir()


def read_yolo(root: Path) -> Objects:
    """The objects of a YOLO folder; names of classes from data.yaml or classes.txt, else numbers.
    images/train and images/val are the two parts, where they are there.

    Raises:
        DataError: no image there, or names that cannot be read.
    """
    findings = Findings()
    names = _names(root)
    folder = root / "images"
    rows: list[tuple[Picture, list[tuple[int, list[float]]]]] = []
    for path in relative_files(folder, SUFFIXES):
        try:
            header = read_header(read_bytes(folder / path))
        except DataError as error:
            findings.note(f"images cannot be read ({error}): dropped", path)
            continue
        picture = Picture(path, header.height, header.width, id=path)
        file = (root / "labels" / path).with_suffix(".txt")
        if not file.is_file():
            findings.note("images have no label file: taken as empty", path)
        rows.append((picture, _lines(file, findings)))
    if not rows:
        raise DataError(f"{folder} has no images that can be read")
    highest = max((label for _, lines in rows for label, _ in lines), default=-1)
    if names is None:
        names = [str(i) for i in range(highest + 1)]
    if not names:
        raise DataError(f"{root}/labels has no objects, and nothing names the classes")
    seen: set[Any] = set()
    for picture, lines in rows:
        for label, values in lines:
            if label >= len(names):
                findings.note(
                    f"objects are of class {label}, which has no name: dropped", picture.path
                )
                continue
            _add(picture, label, values, seen, findings)
    pictures = [picture for picture, _ in rows]
    return Objects(folder, pictures, names, findings, parts=_parts(pictures))


def _lines(file: Path, findings: Findings) -> list[tuple[int, list[float]]]:
    if not file.is_file():
        return []
    try:
        if file.stat().st_size > 20 * _LARGEST:
            raise ValueError
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        findings.note("label files cannot be read: taken as empty", file.name)
        return []
    found = []
    for line in text.splitlines():
        words = line.split()
        try:
            values = [float(word) for word in words]
            label = int(values[0]) if values else 0
            sound = all(is_number(v) for v in values) and 0 <= label < _MOST_CLASSES
            fits = len(values) == 5 or (len(values) >= 7 and len(values) % 2)
            if not sound or label != values[0] or not fits:
                raise ValueError
        except (ValueError, IndexError, OverflowError):
            if words:
                findings.note(
                    "lines are not a class and 4 numbers or a polygon: dropped", file.name
                )
            continue
        found.append((label, values[1:]))
    return found


def _add(
    picture: Picture, label: int, values: list[float], seen: set[Any], findings: Findings
) -> None:
    height, width, polygons = picture.height, picture.width, None
    if len(values) == 4:
        x, y, w, h = (v * s for v, s in zip(values, (width, height, width, height), strict=True))
        box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    else:
        points = np.array(values).reshape(-1, 2) * [width, height]
        box = [*points.min(0).tolist(), *points.max(0).tolist()]
        polygons = polygons_of([points.ravel().tolist()], height, width)
    cut, wrong = cut_box(box, height, width)
    if wrong:
        findings.note(wrong, picture.path)
    if cut is not None:
        add(picture, Thing(cut, label, polygons=polygons), seen, picture.path, findings)


def _names(root: Path) -> list[str] | None:
    for name in ("data.yaml", "dataset.yaml", "classes.txt", "obj.names"):
        path = root / name
        if not path.is_file():
            continue
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError("too large")
            text = path.read_text(encoding="utf-8")
            found = (
                yaml.safe_load(text).get("names") if path.suffix == ".yaml" else text.split("\n")
            )
        except (OSError, ValueError, AttributeError, yaml.YAMLError, RecursionError) as error:
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"{path} cannot be read: {reason}") from None
        if isinstance(found, dict):
            if sorted(map(str, found)) != sorted(str(i) for i in range(len(found))):
                raise DataError(f"{path}: names must be numbered from 0 without gaps")
            found = [found.get(i, found.get(str(i))) for i in range(len(found))]
        if not isinstance(found, list):
            raise DataError(f"{path} has no list of names")
        return [str(n).strip() for n in found if n is not None and str(n).strip()]
    return None


def _parts(pictures: list[Picture]) -> np.ndarray[Any, Any] | None:
    first = [p.path.split("/", 1)[0] if "/" in p.path else "" for p in pictures]
    if "train" not in first or not {"val", "valid"} & set(first):
        return None
    codes = [0 if f == "train" else 1 if f in ("val", "valid") else 2 for f in first]
    return np.array(codes, dtype=np.int8)
