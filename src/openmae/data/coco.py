"""Objects of a COCO file (instances_*.json): boxes, polygons, run-length masks and crowds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmae.data.decode import read_bytes, read_header
from openmae.data.objects import Findings, Objects, Picture, Thing, add, cut_box
from openmae.data.rle import counts_of, is_number, polygons_of
from openmae.errors import DataError, did_you_mean

MOST_BYTES = 4 * 1024**3


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        DataError: it cannot be read, with the reason.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} is larger than 4 GiB")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path} is not JSON: {reason}") from None


def read_coco(path: Path, images: str | None = None) -> Objects:
    """The objects of a COCO file; images are looked for in `images`, or near the file.

    Raises:
        DataError: it is no such file, or no image of it is found.
    """
    found = read_json(path)
    lists: dict[str, list[Any]] = {}
    for name in ("images", "annotations", "categories"):
        entries = found.get(name) if isinstance(found, dict) else None
        if not isinstance(entries, list):
            raise DataError(f'{path} is no COCO file: it has no list "{name}"')
        lists[name] = entries
    findings = Findings()
    classes, numbers = _categories(path, lists["categories"], findings)
    root = _image_root(path, images, lists["images"])
    pictures = _pictures(root, lists["images"], findings)
    if not pictures:
        more = findings.lines()
        raise DataError(
            f"{path}: none of its {len(lists['images'])} images is in {root}. Give --images FOLDER"
            + (f"\n{more[0]}" if more else "")
        )
    number = {n: i for i, n in enumerate(numbers)}
    seen: set[Any] = set()
    for entry in lists["annotations"]:
        _annotation(entry, pictures, number, seen, findings)
    return Objects(root, list(pictures.values()), classes, findings, numbers)


def _categories(path: Path, entries: list[Any], findings: Findings) -> tuple[list[str], list[int]]:
    named: dict[int, str] = {}
    for entry in entries:
        number = entry.get("id") if isinstance(entry, dict) else None
        if type(number) is not int:
            findings.note("categories have no whole number as id: dropped", str(entry)[:60])
        elif number in named:
            findings.note("categories are there twice: the second dropped", f"id {number}")
        else:
            named[number] = str(entry.get("name") or f"category {number}")
    if not named:
        raise DataError(f"{path} names no categories")
    numbers = sorted(named)
    return [named[n] for n in numbers], numbers


def _image_root(path: Path, images: str | None, entries: list[Any]) -> Path:
    """The folder that file names are below: the first where one of the images is."""
    if images is not None:
        root = Path(images).expanduser()
        if not root.is_dir():
            near = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
            hint = did_you_mean(root.name, near)
            raise DataError(
                f"--images {images} does not exist." + (f" Did you mean {hint[0]}?" if hint else "")
            )
        return root
    part = path.stem.removeprefix("instances_")
    above = path.parent.parent
    places = [above / part, path.parent / part, above / "images" / part, path.parent]
    places += [above / "images", path.parent / "images", above]
    told = [e.get("file_name") for e in entries[:50] if isinstance(e, dict)]
    names = [n for n in told if isinstance(n, str) and n]
    return next((p for p in places for n in names if _is_file(p / n)), places[0])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _pictures(root: Path, entries: list[Any], findings: Findings) -> dict[Any, Picture]:
    found: dict[Any, Picture] = {}
    names: set[str] = set()
    for entry in entries:
        name = entry.get("file_name") if isinstance(entry, dict) else None
        number: Any = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or type(number) not in (int, str):
            findings.note("images have no file_name or no id: dropped", str(entry)[:60])
            continue
        if number in found:
            findings.note("image ids are there twice: the second dropped", f"id {number}")
        elif name in names:
            findings.note("image files are there twice: the second dropped", name)
        elif Path(name).is_absolute() or ".." in Path(name).parts:
            findings.note("file names lead out of the folder: dropped", name)
        elif not _is_file(root / name):
            findings.note(f"images are not in {root}: dropped", name)
        else:
            size = _size(entry, root / name)
            if size is None:
                findings.note("images have no size and cannot be read: dropped", name)
                continue
            names.add(name)
            found[number] = Picture(name, *size, id=number)
    return found


def _size(entry: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    sides = entry.get("height"), entry.get("width")
    if all(type(s) is int and 0 < s < 1_000_000 for s in sides):
        return sides  # type: ignore[return-value]
    try:
        header = read_header(read_bytes(path))
    except DataError:
        return None
    return header.height, header.width


def _annotation(
    entry: Any,
    pictures: Mapping[Any, Picture],
    number: Mapping[int, int],
    seen: set[Any],
    findings: Findings,
) -> None:
    """Give its image what one annotation says."""
    if not isinstance(entry, dict):
        findings.note("annotations are no objects of JSON: dropped", str(entry)[:60])
        return
    where = f"annotation {str(entry.get('id'))[:20]}"
    picture, category = _get(pictures, entry.get("image_id")), entry.get("category_id")
    if picture is None:
        findings.note("annotations belong to no image that is there: dropped", where)
        return
    where += f" of {picture.path}"
    label = _get(number, category)
    if label is None:
        text = f"annotations are of category {str(category)[:20]}, which has no name: dropped"
        findings.note(text, where)
        return
    box = entry.get("bbox")
    if isinstance(box, list) and len(box) == 4 and all(is_number(v) for v in box):
        box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    cut, wrong = cut_box(box if isinstance(box, list) else [], picture.height, picture.width)
    if wrong:
        findings.note(wrong, where)
    if cut is None:
        return
    area: Any = entry.get("area")
    thing = Thing(cut, label, crowd=entry.get("iscrowd") in (1, True))
    thing.area = float(area) if is_number(area) and area > 0 else None
    _shape(thing, entry.get("segmentation"), picture, where, findings)
    add(picture, thing, seen, where, findings)


def _get(table: Mapping[Any, Any], key: Any) -> Any:
    return table.get(key) if type(key) in (int, str) else None


def _shape(thing: Thing, value: Any, picture: Picture, where: str, findings: Findings) -> None:
    """The mask of an object, where there is one and it is sound."""
    if value is None or value == []:
        return
    try:
        if isinstance(value, dict):
            if value.get("size") != [picture.height, picture.width]:
                raise ValueError(f"its size is not {picture.width}x{picture.height}")
            thing.counts = counts_of(value.get("counts"), picture.height, picture.width)
        else:
            thing.polygons = polygons_of(value, picture.height, picture.width)
    except ValueError as error:
        findings.note(f"masks cannot be used, {error}: box kept", where)
