"""Which format of objects a user's words name, and the parts for training and validation."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from openmae.data.coco import read_coco
from openmae.data.folder import missing
from openmae.data.instancemasks import holder, read_instances
from openmae.data.objects import BoxSource, Objects, with_masks
from openmae.data.sources import hash_split
from openmae.data.voc import is_voc, read_voc
from openmae.data.yolo import is_yolo, read_yolo
from openmae.errors import DataError

FORMATS = "a COCO .json, or a folder of COCO, Pascal VOC, YOLO or instance masks (docs/detect.md)"


def open_objects(
    data: str, images: str | None = None, masks: bool | None = None, part: str = "val"
) -> BoxSource:
    """All images that a user's words name; of a folder with several COCO files that of `part`.

    Raises:
        DataError: it is none of the formats, or nothing in it can be used.
    """
    objects = _read(data, images, part)
    return _source(data, objects, masks)


def open_object_split(
    data: str,
    val: str | None = None,
    images: str | None = None,
    masks: bool | None = None,
    fraction: float = 0.2,
) -> tuple[BoxSource, BoxSource]:
    """Training and validation part: `val` names the second, or the data have two parts, or a share
    is held out by hash of the path.

    Raises:
        DataError: as `open_objects`, or the parts have different classes.
    """
    first = open_objects(data, images, masks, "train")
    if val is not None or _coco_file(Path(data).expanduser(), "val") is not None:
        other = val if val is not None else data
        second = _second(other, images, first.masks, near=val is not None)
        if second.classes != first.classes:
            odd = sorted(set(first.classes) ^ set(second.classes))[:3]
            raise DataError(
                f"{other} has other classes than {data} ({', '.join(odd) or 'their order'})"
            )
        return first, second
    parts = first.parts
    if parts is not None and (parts == 0).any() and (parts == 1).any():
        return first.subset(np.flatnonzero(parts == 0)), first.subset(np.flatnonzero(parts == 1))
    return hash_split(first, fraction)  # type: ignore[return-value]


def _second(data: str, images: str | None, masks: bool, near: bool) -> BoxSource:
    """The part for validation. The images of another file are looked for near it at first: the same
    names may stand for the training images in the folder that was given.
    """
    if near and images is not None:
        with contextlib.suppress(DataError):
            return open_objects(data, None, masks, "val")
    return open_objects(data, images, masks, "val")


def _source(data: str, objects: Objects, masks: bool | None) -> BoxSource:
    source = BoxSource(data, objects, with_masks(objects, masks))
    if not any(t for p in objects.pictures for t in p.things if not t.crowd):
        more = objects.findings.lines()
        raise DataError(f"{data} has no objects" + (f": {more[0]}" if more else ""))
    return source


def _read(data: str, images: str | None, part: str) -> Objects:
    path = Path(data).expanduser()
    if not path.exists():
        raise DataError(missing(path))
    if path.is_file():
        if path.suffix.lower() != ".json":
            raise DataError(f"{data}: give {FORMATS}")
        return read_coco(path, images)
    file = _coco_file(path, part) or _coco_file(path, "train" if part == "val" else "val")
    if file is not None:
        return read_coco(file, images)
    if is_voc(path):
        return read_voc(path, images)
    if is_yolo(path):
        return read_yolo(path)
    inside = holder(path)
    if inside is not None:
        return read_instances(inside)
    above = path.parent  # of the images of a COCO folder, which were given in its place
    file = _coco_file(above, part) or _coco_file(above, "train")
    hint = f". Did you mean {above}, which has {file.relative_to(above)}?" if file else ""
    raise DataError(f"{data} holds no objects that can be read. Give {FORMATS}{hint}")


def _coco_file(root: Path, part: str) -> Path | None:
    """annotations/instances_PART*.json of a COCO folder, or the only file of that folder."""
    folder = root / "annotations"
    if not folder.is_dir():
        return None
    files = sorted(folder.glob("*.json"))
    found = [f for f in files if f.stem.startswith((f"instances_{part}", part))]
    if found:
        return found[0]
    return files[0] if len(files) == 1 and part == "train" else None
