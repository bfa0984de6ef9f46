"""Images with objects in them: boxes, and masks where there are some. Readers of each format give
`Objects`; what was wrong with their files is counted in `Findings`.

H and W height and width in pixels; boxes are x1, y1, x2, y2, in pixels, 0 the left and upper edge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.decode import read_bytes
from openmae.data.rle import Counts, drawn, filled, is_number
from openmae.data.source import BytesSource, Sample
from openmae.data.values import Decoding, Pixels
from openmae.errors import DataError

Box = tuple[float, float, float, float]


@dataclass
class Findings:
    """What was found wrong: how often, and where first."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, where: str) -> None:
        """One more of a kind; `what` is a sentence without its subject's number."""
        self.counts[what] = self.counts.get(what, 0) + 1
        self.first.setdefault(what, where)

    def lines(self) -> list[str]:
        """One line a kind, the commonest first."""
        order = sorted(self.counts, key=lambda what: -self.counts[what])
        return [f"{self.counts[w]:,} {w} (first: {self.first[w]})" for w in order]


@dataclass
class Thing:
    """One object. `crowd`: a region of many, or one that is not to be scored: never trained on."""

    box: Box
    label: int
    crowd: bool = False
    polygons: list[NDArray[np.float64]] | None = None
    counts: Counts | None = None
    area: float | None = None

    @property
    def has_mask(self) -> bool:
        """Whether there is more than a box."""
        return self.polygons is not None or self.counts is not None

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """(H, W)."""
        if self.counts is not None:
            return filled(self.counts, height, width)
        assert self.polygons is not None
        return drawn(self.polygons, height, width)

    def line(self) -> bytes:
        """What tells it from others, for a hash."""
        shape = b"" if self.counts is None else self.counts.tobytes()
        shape += b"".join(p.tobytes() for p in self.polygons or ())
        return repr((self.box, self.label, self.crowd)).encode() + shape


@dataclass
class Picture:
    """An image and its objects; the path is below the root of its source."""

    path: str
    height: int
    width: int
    things: list[Thing] = field(default_factory=list)
    id: int | str = 0  # as the file of annotations has it


@dataclass
class Objects:
    """What a reader of a format found."""

    root: Path
    pictures: list[Picture]
    classes: list[str]
    findings: Findings
    numbers: list[int] = field(default_factory=list)  # of the classes in files; 1, 2 ... if empty
    parts: NDArray[np.int8] | None = None  # 0 for training, 1 for validation, where it is said


class BoxSource(BytesSource):
    """Images with boxes; samples also have "boxes", "labels" and, if asked for, "masks"."""

    def __init__(
        self, name: str, objects: Objects, masks: bool, decoding: Decoding | None = None
    ) -> None:
        super().__init__(name, len(objects.pictures), decoding)
        self.root, self.pictures, self.classes = objects.root, objects.pictures, objects.classes
        self.numbers = objects.numbers or list(range(1, len(objects.classes) + 1))
        self.findings, self.masks, self.parts = objects.findings, masks, objects.parts

    def picture(self, index: int) -> Picture:
        """The annotations of an image."""
        return self.pictures[int(self.rows[index])]

    def row_path(self, row: int) -> str:
        """Below the root."""
        return self.pictures[row].path

    def row_bytes(self, row: int) -> bytes:
        """The file."""
        return read_bytes(self.root / self.pictures[row].path)

    def row_image(self, row: int) -> Pixels:
        """Decode the file of a row; its size must be that of the annotations."""
        image, picture = super().row_image(row), self.pictures[row]
        height, width = image.shape[:2]
        if (height, width) != (picture.height, picture.width):
            raise DataError(
                f"is {width}x{height}, its annotations say {picture.width}x{picture.height}"
            )
        return image

    def row_line(self, row: int) -> str:
        """Path, size, and a hash of the objects."""
        picture = self.pictures[row]
        digest = hashlib.blake2b(digest_size=8)
        for thing in picture.things:
            digest.update(thing.line())
        size = (self.root / picture.path).stat().st_size
        return f"{picture.path}\t{size}\t{digest.hexdigest()}"

    def __getitem__(self, index: int) -> Sample:
        sample: dict[str, Any] = dict(super().__getitem__(index))
        picture = self.picture(index)
        height, width = sample["image"].shape[:2]
        things = [t for t in picture.things if not t.crowd]
        boxes = np.array([t.box for t in things], dtype=np.float32).reshape(-1, 4)
        labels = np.array([t.label for t in things], dtype=np.int64)
        sample |= {"boxes": boxes, "labels": labels}
        if self.masks:
            empty = np.zeros((0, height, width), dtype=np.bool_)
            masks = [t.mask(height, width) for t in things]
            sample["masks"] = np.stack(masks) if masks else empty
        return sample  # type: ignore[return-value]

    def counts(self) -> NDArray[np.int64]:
        """Objects of each class (K,), without crowds."""
        labels = [t.label for i in range(len(self)) for t in self.picture(i).things if not t.crowd]
        return np.bincount(labels, minlength=len(self.classes))


def cut_box(box: Sequence[Any], height: int, width: int) -> tuple[Box | None, str]:
    """A box, cut to its image, and what was wrong with it, in words; None where nothing is left."""
    if len(box) != 4 or not all(is_number(v) for v in box):
        return None, "boxes are not four numbers: dropped"
    x1, y1, x2, y2 = (float(v) for v in box)
    if x2 <= x1 or y2 <= y1:
        return None, "boxes have zero width or height: dropped"
    cut = (min(max(x1, 0.0), width), min(max(y1, 0.0), height), min(x2, width), min(y2, height))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        return None, "boxes lie outside of their image: dropped"
    over = max(-x1, -y1, x2 - width, y2 - height)
    return cut, "boxes reach over the edge of their image: cut" if over > 1 else ""


def add(picture: Picture, thing: Thing, seen: set[Any], where: str, findings: Findings) -> None:
    """Give an image an object that it does not have yet."""
    key = (picture.path, thing.label, thing.box, thing.crowd)
    if key in seen:
        findings.note("objects are there twice: the second dropped", where)
        return
    seen.add(key)
    picture.things.append(thing)


def with_masks(objects: Objects, wanted: bool | None) -> bool:
    """Whether masks are trained: as asked, or where most objects have one; those without then go.

    Raises:
        DataError: masks are asked for and there are none.
    """
    things = [t for p in objects.pictures for t in p.things if not t.crowd]
    have = sum(t.has_mask for t in things)
    if wanted and not have:
        raise DataError(
            f"{objects.root} has boxes and no masks. Drop --masks, or --no-masks for all"
        )
    masks = (2 * have > len(things)) if wanted is None else wanted
    if masks and have < len(things):
        for picture in objects.pictures:
            for thing in picture.things:
                if not thing.crowd and not thing.has_mask:
                    what = "objects have a box and no mask: dropped (--no-masks keeps them)"
                    objects.findings.note(what, picture.path)
            picture.things = [t for t in picture.things if t.crowd or t.has_mask]
    return masks


def relative_files(root: Path, suffixes: frozenset[str]) -> Iterator[str]:
    """Paths of files below a folder, sorted, links to folders followed once."""
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in suffixes and path.is_file():
            yield path.relative_to(root).as_posix()
