"""Pictures of objects: boxes, masks, names and scores on their image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from openmae.data.rle import counts_of, filled
from openmae.report.classcolours import class_colours, ink
from openmae.report.picturestyle import (
    Legend,
    Plates,
    framed,
    plain,
    plate_size,
    resized,
    short_path,
    shown_size,
)

_SHARE = 0.4  # of the colour over a mask
_LINE_WIDTH = 2  # pixels of a box, between two others
_UNNAMED = 12  # objects of an only class that still have their scores on plates


def draw_found(
    picture: NDArray[np.uint8],
    record: Mapping[str, Any],
    classes: Sequence[str],
    threshold: float,
    title: str = "",
) -> Image.Image:
    """An image (H, W, 3) as it is shown, with the objects of a record (see `tasks.detection.Found`)
    whose score is at least `threshold`, and a legend of the classes that are there. Each class has
    its own colour.
    """
    height, width = record["size"]
    size = shown_size(width, height)
    scores, labels = record["scores"], record["labels"]
    kept = sorted((i for i, s in enumerate(scores) if s >= threshold), key=lambda i: -scores[i])
    colours = class_colours(len(classes))
    shown = np.array(resized(Image.fromarray(picture), size))
    for i in kept[::-1]:  # the surest last, so that it lies on top
        if record.get("masks") is not None:
            mask = filled(counts_of(record["masks"][i], height, width), height, width)
            _lay(shown, Image.fromarray(mask), colours[labels[i]])
    drawn = Image.fromarray(shown)
    scale = (size[0] / width, size[1] / height) * 2
    boxes = {i: [v * s for v, s in zip(record["boxes"][i], scale, strict=True)] for i in kept}
    for i in kept[::-1]:
        _box(ImageDraw.Draw(drawn), boxes[i], colours[labels[i]])
    plates = Plates(drawn)
    if len(classes) > 1 or len(kept) <= _UNNAMED:
        for i in kept:  # after all boxes: no line goes through a name
            name = f"{plain(classes[labels[i]])} " if len(classes) > 1 else ""
            text = f"{name}{100 * scores[i]:.0f}"
            plates.put(text, colours[labels[i]], _corners(boxes[i], text))
    counts = Counter(labels[i] for i in kept)
    legend = Legend.of(dict(counts), classes, colours.tolist(), lambda k: f"{counts[k]:,}")
    many = f"{len(kept):,} object{'' if len(kept) == 1 else 's'} of score {threshold:g} or more"
    if plates.lost:
        many += f"; {plates.lost:,} names had no room"
    return framed(drawn, [title] if title else [], [short_path(record["path"], 90), many], legend)


def _lay(shown: NDArray[np.uint8], mask: Image.Image, colour: NDArray[np.uint8]) -> None:
    """Blend a colour into a picture where a mask is, and draw its rim: the colour, and around it
    black or white, whichever differs more. So objects that touch stay apart.
    """
    inside = np.asarray(mask.resize(shown.shape[1::-1], Image.Resampling.NEAREST))
    mixed = (1 - _SHARE) * shown[inside].astype(np.float32) + _SHARE * colour.astype(np.float32)
    shown[inside] = np.rint(mixed).astype(np.uint8)
    rim = inside & ~_shrunk(inside)
    shown[rim] = 0 if ink(colour.tolist()) == "black" else 255
    inner = inside & ~rim
    shown[inner & ~_shrunk(inner)] = colour


def _shrunk(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without its outermost pixels; the edge of a picture is no rim."""
    wide = np.pad(inside, 1, constant_values=True)
    return wide[1:-1, :-2] & wide[1:-1, 2:] & wide[:-2, 1:-1] & wide[2:, 1:-1]


def _box(pen: ImageDraw.ImageDraw, box: Sequence[float], colour: NDArray[np.uint8]) -> None:
    """A frame in a colour between two that are black or white, seen on every ground."""
    left, top = round(box[0]), round(box[1])
    right, bottom = max(round(box[2]) - 1, left), max(round(box[3]) - 1, top)
    fill = (int(colour[0]), int(colour[1]), int(colour[2]))
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=ink(fill), width=4)
    pen.rectangle((left, top, right, bottom), outline=fill, width=_LINE_WIDTH)


def _corners(box: Sequence[float], text: str) -> list[tuple[float, float]]:
    """Where a name may stand, best first: above its box, in it, below it; left, then right."""
    wide, high = plate_size(text)
    left, right = box[0] - 1, box[2] + 1 - wide
    heights = (box[1] - high, box[1] - 1, box[3], box[3] + 1 - high)
    return [(x, y) for x in (left, right) for y in heights]
