"""Objects of Pascal VOC: a folder with Annotations/*.xml and JPEGImages/, and where they are,
ImageSets/Main/train.txt and val.txt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from openmae.data.decode import SUFFIXES, read_bytes, read_header
from openmae.data.objects import Findings, Objects, Picture, Thing, add, cut_box
from openmae.errors import DataError

_LARGEST = 10_000_000  # bytes of one XML file


def is_voc(root: Path) -> bool:
    """Whether a folder is laid out so."""
    return (root / "Annotations").is_dir()


def read_voc(root: Path, images: str | None = None) -> Objects:
    """The objects of a VOC folder; images are in JPEGImages/ or images/, or where `images` says.

    Boxes of VOC count pixels from 1 and include the last one; objects marked "difficult" are not
    trained on, and a detection on them is neither right nor wrong.

    Raises:
        DataError: no file there can be used.
    """
    findings = Findings()
    folders = (
        [Path(images).expanduser()] if images else [root / "JPEGImages", root / "images", root]
    )
    where = next((f for f in folders if f.is_dir()), None)
    if where is None:
        raise DataError(f"--images {images} does not exist")
    files = sorted((root / "Annotations").glob("*.xml"))
    if not files:
        raise DataError(f"{root}/Annotations has no .xml files")
    beside = {p.stem: p.name for p in sorted(where.iterdir()) if p.suffix.lower() in SUFFIXES}
    read: list[tuple[Picture, list[tuple[str, list[Any], bool]]]] = []
    for file in files:
        tree = _tree(file, findings)
        picture = None if tree is None else _picture(tree, file, where, beside, findings)
        if tree is not None and picture is not None:
            read.append((picture, [_object(node) for node in tree.findall("object")]))
    classes = sorted({name for _, objects in read for name, _, _ in objects if name})
    if not read or not classes:
        more = findings.lines()
        text = f"{root}: none of {len(files)} XML files can be used"
        raise DataError(text + (f". {more[0]}" if more else ": no object has a name"))
    number = {name: i for i, name in enumerate(classes)}
    seen: set[Any] = set()
    for picture, objects in read:
        for name, box, crowd in objects:
            if name not in number:
                findings.note("objects have no name: dropped", picture.path)
                continue
            cut, wrong = cut_box(box, picture.height, picture.width)
            if wrong:
                findings.note(wrong, picture.path)
            if cut is not None:
                add(picture, Thing(cut, number[name], crowd), seen, picture.path, findings)
    pictures = [picture for picture, _ in read]
    return Objects(where, pictures, classes, findings, parts=_parts(root, pictures))


def _tree(file: Path, findings: Findings) -> ElementTree.Element | None:
    try:
        data = read_bytes(file)
        if len(data) > _LARGEST or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise ValueError
        return ElementTree.fromstring(data)
    except (DataError, ValueError, ElementTree.ParseError, LookupError, RecursionError):
        findings.note("XML files cannot be read: dropped", file.name)
        return None


def _picture(
    tree: ElementTree.Element, file: Path, where: Path, beside: dict[str, str], findings: Findings
) -> Picture | None:
    """The image of an XML file: what it names, else that of the same stem."""
    named = Path((tree.findtext("filename") or "").strip()).name
    name = named if named in beside.values() else beside.get(file.stem)
    if name is None:
        findings.note(f"images are not in {where}: dropped", named or file.stem)
        return None
    sides = [_number(tree.findtext(f"size/{side}")) for side in ("height", "width")]
    if all(s is not None and 0 < s < 1_000_000 and s == int(s) for s in sides):
        return Picture(name, int(sides[0] or 0), int(sides[1] or 0), id=file.stem)
    try:
        header = read_header(read_bytes(where / name))
    except DataError:
        findings.note("images have no size and cannot be read: dropped", name)
        return None
    return Picture(name, header.height, header.width, id=file.stem)


def _object(node: ElementTree.Element) -> tuple[str, list[Any], bool]:
    corners = [_number(node.findtext(f"bndbox/{n}")) for n in ("xmin", "ymin", "xmax", "ymax")]
    box: list[Any] = list(corners)
    if all(v is not None for v in corners):
        box[:2] = [v - 1 for v in box[:2]]
    difficult = (node.findtext("difficult") or "0").strip() == "1"
    return (node.findtext("name") or "").strip(), box, difficult


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _parts(root: Path, pictures: list[Picture]) -> np.ndarray[Any, Any] | None:
    """Which images are for training and for validation, where both lists are there."""
    found = []
    for name in ("train", "val"):
        path = root / "ImageSets" / "Main" / f"{name}.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return None
        found.append({line.split()[0] for line in lines if line.strip()})
    codes = [0 if p.id in found[0] else 1 if p.id in found[1] else 2 for p in pictures]
    return np.array(codes, dtype=np.int8)
