"""Small pictures of the explorer: PNG bytes, error maps, thumbnails.

C channels, H height, W width.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.models.encoder import Encoder
from openmae.report.display import Display, display_of, to_rgb, unit_of
from openmae.report.pictures import LEAK, Reconstruction, display_gain

_STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_COLOURS = ((8, 8, 16), (74, 22, 107), (178, 48, 84), (238, 126, 40), (252, 244, 164))
_LARGE = 128  # pixels; smaller pictures are never made lossy
_SIDE = 96  # pixels of a thumbnail's longer side


def png(image: NDArray[np.uint8]) -> bytes:
    """The file of an image (H, W, 3)."""
    return encoded(image, "PNG", compress_level=3)


def encoded(image: NDArray[np.uint8], kind: str, **options: object) -> bytes:
    """The file of an image (H, W, 3) in a format of Pillow's."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    """A file inside of a page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def heat(
    true: NDArray[np.float32], output: NDArray[np.float32], hidden: NDArray[Any]
) -> tuple[NDArray[np.uint8], float]:
    """The error of an output (C, H, W) where it was hidden (H, W), root mean square over channels,
    from black to yellow; and the error that is yellow: the 99th percentile of the hidden pixels.
    """
    error = np.sqrt(np.square(output - true).mean(axis=0))
    most = float(np.quantile(error[hidden], 0.99)) if hidden.any() else 0.0
    share = np.where(hidden, error, 0) / max(most, 1e-12)
    return colours(np.clip(share, 0, 1)), most


def colours(share: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Numbers in [0, 1], (H, W) -> (H, W, 3), black over purple and red to light yellow."""
    table = np.array(_COLOURS, dtype=np.float64)
    parts = [np.interp(share, _STOPS, table[:, i]) for i in range(3)]
    return np.rint(np.stack(parts, axis=-1)).astype(np.uint8)


def thumbnail(image: NDArray[np.generic], encoder: Encoder) -> bytes:
    """A small PNG of an image (C, H, W) as a model reads it: uint8, or normalised."""
    display = display_of(encoder)
    unit = unit_of(image, encoder)
    shown = Image.fromarray(to_rgb(unit, 1.0, display.bands, display.window(unit)))
    shown.thumbnail((_SIDE, _SIDE))
    return png(np.asarray(shown))


def numbers(row: Reconstruction) -> dict[str, Any]:
    """The errors of a reconstruction, and what they say."""
    return {
        "mse": row.mse,
        "mean_fill_mse": row.mean_fill_mse,
        "rmse": row.rmse,
        "better": row.better,
        "sentence": row.sentence(),
        "note": row.note,
        "leaks": row.note == LEAK,
    }


def hidden_pixels(row: Reconstruction) -> NDArray[np.bool_]:
    """What was hidden, (H, W)."""
    return np.asarray(np.isnan(row.pictures[1]).all(axis=0))


def shown(row: Reconstruction) -> dict[str, Any]:
    """Original, output and error map as they are shown, and what has to be said of that."""
    display = row.display or Display((0,), (1,), len(row.pictures[0]))
    gain, window = display_gain([row]), display.window(row.pictures[0])
    original, output = (
        data_url(png(to_rgb(row.pictures[i], gain, display.bands, window))) for i in (0, 2)
    )
    error, most = heat(row.pictures[0], row.pictures[2], hidden_pixels(row))
    if display.value_range is not None:  # in the values of the file, as the numbers are
        most *= display.value_range[1] - display.value_range[0]
    title = display.title().removeprefix(", ")
    title += f"{', ' if title else ''}shown {gain:g} times brighter" if gain > 1 else ""
    return {
        "original": original,
        "output": output,
        "error": data_url(png(error)),
        "error_most": most,
        "title": title,
    }


def compact(url: str) -> str:
    """A picture for a file that is sent: WebP at 90 where it is large, as it is where it is small
    (a pixel must stay one).
    """
    data = base64.b64decode(url.split(",", 1)[1])
    with Image.open(io.BytesIO(data), formats=("PNG",)) as found:
        if max(found.size) < _LARGE:
            return url
        again = encoded(np.asarray(found.convert("RGB")), "WEBP", quality=90)
    return data_url(again, "webp") if len(again) < len(data) else url
