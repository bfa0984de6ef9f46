"""Pictures of objects: boxes, masks, names and scores on their image."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from openmae.data.rle import counts_of, filled
from openmae.data.values import Pixels

_SHARE = 0.45  # of the colour over a mask
_SMALL = 480  # pixels: smaller images are drawn larger


def draw_found(
    image: Pixels, record: Mapping[str, Any], classes: Sequence[str], threshold: float
) -> Image.Image:
    """An image (H, W, C) as it is in its file, with the objects of a record (see
    `tasks.detection.Found`) whose score is at least `threshold`. Each object has its own colour.
    """
    height, width = image.shape[:2]
    shown = to_rgb8(image).astype(np.float32)
    scores = record["scores"]
    kept = sorted((i for i, s in enumerate(scores) if s >= threshold), key=lambda i: -scores[i])
    drawn = list(enumerate(kept))[::-1]  # the surest last, so that it lies on top
    for order, i in drawn:
        if record.get("masks") is not None:
            mask = filled(counts_of(record["masks"][i], height, width), height, width)
            shown[mask] = (1 - _SHARE) * shown[mask] + _SHARE * np.array(colour(order))
    zoom = max(1, -(-_SMALL // max(height, width)))
    out = Image.fromarray(shown.round().astype(np.uint8))
    out = out.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
    pen, size = ImageDraw.Draw(out), max(11, round(max(out.size) / 55))
    corners = {i: [v * zoom for v in record["boxes"][i]] for i in kept}
    for order, i in drawn:
        x1, y1, x2, y2 = corners[i]
        box = (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1))
        pen.rectangle(box, outline=colour(order), width=max(2, size // 6))
    if len(classes) > 1 or len(kept) <= 12:
        for order, i in drawn:  # after all boxes: no line goes through a name
            name = f"{classes[record['labels'][i]]} " if len(classes) > 1 else ""
            _label(pen, out.width, corners[i], f"{name}{100 * scores[i]:.0f}", colour(order), size)
    return out


def _label(
    pen: ImageDraw.ImageDraw,
    width: int,
    box: Sequence[float],
    text: str,
    back: tuple[int, int, int],
    size: int,
) -> None:
    """Black words on the colour of their box, above it, or in it at the top of a picture; moved to
    the left where they would leave the picture.
    """
    font = ImageFont.load_default(size)
    text = text.encode("utf-8", "replace").decode()
    wide, high = round(font.getlength(text)) + 4, size + 4
    left, top = max(min(box[0], width - wide), 0), max(box[1] - high, 0)
    pen.rectangle((left, top, left + wide - 1, top + high - 1), fill=back)
    pen.text((left + 2, top + high // 2), text, fill=(0, 0, 0), font=font, anchor="lm")


def to_rgb8(image: Pixels) -> NDArray[np.uint8]:
    """(H, W, C) of any type -> (H, W, 3) to look at: what is not 8-bit from its 1st to its 99th
    percentile; the first three channels.
    """
    image = image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    if image.dtype != np.uint8:
        values = np.nan_to_num(image.astype(np.float32))
        low, high = np.percentile(values, (1, 99))
        image = ((values - low) / max(float(high - low), 1e-12)).clip(0, 1) * 255
    return np.ascontiguousarray(image).astype(np.uint8)


def colour(number: int) -> tuple[int, int, int]:
    """Bright colours that differ from their neighbours: steps of the golden angle. Paler than full
    ones, so that black words on them can be read.
    """
    r, g, b = colorsys.hsv_to_rgb(number * 0.61803 % 1, 0.65, 1.0)
    return round(255 * r), round(255 * g), round(255 * b)
