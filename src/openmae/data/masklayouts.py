"""Which mask belongs to which image: the usual layouts of folders, found by their names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from openmae.data.folder import missing
from openmae.data.maskfile import SUFFIXES, read_lines
from openmae.data.names import shown
from openmae.data.walk import walk
from openmae.errors import DataError

IMAGES = ("images", "image", "imgs", "img", "JPEGImages", "leftImg8bit")
MASKS = (
    "masks", "mask", "annotations", "labels", "label", "annot", "gt", "gtFine", "stuffthingmaps",
    "SegmentationClass",
)  # fmt: skip
TRAIN = ("train", "training", "train2017")
TEST = ("val", "validation", "valid", "val2017", "test", "testing")
_ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_L", "_gt", "_seg", "_segmentation")
_CITYSCAPES = ("_leftImg8bit", "_gtFine_labelTrainIds")  # endings of its images and masks
_ADE_NAMES = "objectInfo150.txt"
ADE, PAIRS, INSTANCES = "ade20k", "pairs", "instances"


@dataclass
class Pairs:
    """Image files below `root` in sorted order, and the mask files of each, below `masks`.

    `kind` "instances": the masks of an image show one object each.
    """

    root: Path
    masks: Path
    files: list[str]
    of: list[list[str]]
    kind: str = PAIRS
    names: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def find_pairs(data: str, masks: str | None = None) -> tuple[Pairs, Pairs | None]:
    """Training and, where the folders say so, test part of what a user's words name.

    Raises:
        DataError: no such folder, no masks beside the images, or images without a mask.
    """
    root = Path(data).expanduser()
    if not root.exists():
        raise DataError(missing(root))
    if not root.is_dir():
        raise DataError(f"{data} is a file. Give the folder that holds images and masks")
    if masks is not None:
        return _given(root, masks)
    instances = _instances(root)
    if instances is not None:
        return instances, None
    inside = [root / name for name in ("ADEChallengeData2016",) if (root / name).is_dir()]
    for base in (root, *inside):
        parts = [_split(base, names) for names in (TRAIN, TEST)]
        if parts[0] and parts[1]:
            train, test = (_matched(*part) for part in parts if part)
            return _as_ade(base, train), _as_ade(base, test)
        whole = _both(base, base)
        if whole:
            return _matched(*whole), None
    have = sorted(f"{p.name}/" for p in root.iterdir() if p.is_dir())[:6]
    raise DataError(
        f"{data} has no images beside masks (found {' '.join(have) or 'no folders'}). Give images/"
        " and masks/ below it, or --masks FOLDER"
    )


def _given(root: Path, masks: str) -> tuple[Pairs, Pairs | None]:
    other = Path(masks).expanduser()
    if not other.is_dir():
        raise DataError(missing(other) if not other.exists() else f"--masks {masks} is a file")
    parts = []
    for names in (TRAIN, TEST):
        name = next((n for n in names if (root / n).is_dir() and (other / n).is_dir()), None)
        parts.append(None if name is None else (root / name, other / name))
    if parts[0] and parts[1]:
        return _matched(*parts[0]), _matched(*parts[1])
    return _matched(root, other), None


def _both(images: Path, masks: Path) -> tuple[Path, Path] | None:
    """Folders of images and masks by their usual names."""
    first = next((images / n for n in IMAGES if (images / n).is_dir()), None)
    second = next((masks / n for n in MASKS if (masks / n).is_dir()), None)
    return (first, second) if first and second else None


def _split(root: Path, names: Iterable[str]) -> tuple[Path, Path] | None:
    """Of one part: images/train and masks/train, train/images and train/masks, or train and
    trainannot.
    """
    both = _both(root, root)
    for name in names:
        if both and (both[0] / name).is_dir() and (both[1] / name).is_dir():
            return both[0] / name, both[1] / name
        if (root / name).is_dir():
            inner = _both(root / name, root / name)
            if inner:
                return inner
            for ending in ("annot", "_annot", "_labels", "_masks", "_mask"):
                if (root / f"{name}{ending}").is_dir():
                    return root / name, root / f"{name}{ending}"
    return None


def _matched(images: Path, masks: Path) -> Pairs:
    """Every image with the mask of its name, whatever the suffix."""
    files = list(walk(images).files)
    if not files:
        raise DataError(f"{images} has no images")
    found: dict[str, str] = {}
    for name in walk(masks).files:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES or stem not in found:
            found[stem] = name
    if not found:
        raise DataError(f"{masks} has no masks. They are PNG, BMP, PPM or TIFF files")
    own = [_mask_of(os.path.splitext(name)[0], found) for name in files]
    without = [name for name, mask in zip(files, own, strict=True) if mask is None]
    if without:
        stem = os.path.splitext(without[0])[0]
        raise DataError(
            f"{len(without)} of {len(files)} images have no mask (first: {shown(without[0])}; no"
            f" {shown(f'{masks}/{stem}.png')}). Add them, or take those images away"
        )
    of = [[mask] for mask in own if mask is not None]
    used = {mask for row in of for mask in row}
    spare = sorted(set(found.values()) - used)
    pairs = Pairs(images, masks, files, of)
    if spare:
        pairs.notices.append(
            f"{len(spare)} masks have no image and are not used (first: {shown(spare[0])})"
        )
    return pairs


def _mask_of(stem: str, found: dict[str, str]) -> str | None:
    names = [f"{stem}{ending}" for ending in _ENDINGS]
    names.append(stem.removesuffix(_CITYSCAPES[0]) + _CITYSCAPES[1])
    return next((found[name] for name in names if name in found), None)


def _as_ade(root: Path, pairs: Pairs) -> Pairs:
    """ADE20K's folders: annotations/training, where 0 is no label and class k is k + 1."""
    if pairs.masks.parent.name == "annotations" and pairs.masks.name in ("training", "validation"):
        pairs.kind = ADE
        if (root / _ADE_NAMES).is_file():
            lines = [line.split("\t") for line in read_lines(root / _ADE_NAMES)[1:] if line.strip()]
            pairs.names = [row[-1].split(",")[0].strip() for row in lines]
    return pairs


def _instances(root: Path) -> Pairs | None:
    """ID/images/* and ID/masks/*, one object a mask, as in the Data Science Bowl of 2018."""
    for base in (root, root / "stage1_train"):
        folders = sorted(p for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
        folders = [p for p in folders if (p / "images").is_dir() and (p / "masks").is_dir()]
        if not folders or {p.name for p in folders} & {*TRAIN, *TEST}:
            continue
        files: list[str] = []
        of: list[list[str]] = []
        for folder in folders:
            names = list(walk(folder / "images").files)
            objects = list(walk(folder / "masks").files)
            if len(names) != 1:
                raise DataError(f"{folder}/images has {len(names)} images, one is expected")
            files.append(f"{folder.name}/images/{names[0]}")
            of.append([f"{folder.name}/masks/{name}" for name in objects])
        return Pairs(base, base, files, of, INSTANCES)
    return None
