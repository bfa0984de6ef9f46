"""Pictures of objects: boxes, masks, names and scores on their image."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

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
    kept = [i for i, score in enumerate(record["scores"]) if score >= threshold]
    for order, i in enumerate(kept):
        if record.get("masks") is not None:
            mask = filled(counts_of(record["masks"][i], height, width), height, width)
            shown[mask] = (1 - _SHARE) * shown[mask] + _SHARE * np.array(colour(order))
    zoom = max(1, -(-_SMALL // max(height, width)))
    out = Image.fromarray(shown.round().astype(np.uint8))
    out = out.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(out)
    for order, i in enumerate(kept):
        x1, y1, x2, y2 = (v * zoom for v in record["boxes"][i])
        pen.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=colour(order), width=2)
        name = f"{classes[record['labels'][i]]} " if len(classes) > 1 else ""
        text = f"{name}{100 * record['scores'][i]:.0f}"
        if len(classes) > 1 or len(kept) <= 12:
            at = (x1 + 2, max(y1 - 11, 0))
            pen.rectangle(pen.textbbox(at, text), fill=(0, 0, 0))
            pen.text(at, text, fill=(255, 255, 255))
    return out


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
    """Bright colours that differ from their neighbours: steps of the golden angle."""
    r, g, b = colorsys.hsv_to_rgb(number * 0.61803 % 1, 0.85, 1.0)
    return round(255 * r), round(255 * g), round(255 * b)
