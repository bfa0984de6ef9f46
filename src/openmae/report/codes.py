"""The picture of a tokenizer's codes.

V codes, C channels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.report.display import GREY, to_rgb

_MOST = 1024  # codes that can be seen
_SIDE = 24  # pixels that a code has at least
_CONTRAST = 0.22  # of the unit scale, for one deviation of a patch


def sheet_of_codes(codes: NDArray[np.float32]) -> Image.Image:
    """Codes (V, C, h, w) of patches with mean 0 and deviation 1, in rows, the first 1,024 of them:
    gray of one channel or two, else the first three as red, green and blue.
    """
    shown = codes[:_MOST]
    zoom = max(1, math.ceil(_SIDE / max(codes.shape[2:])))
    columns = math.ceil(math.sqrt(len(shown)))
    height, width = (zoom * side + 2 for side in codes.shape[2:])
    rows = math.ceil(len(shown) / columns)
    page = np.full((rows * height + 2, columns * width + 2, 3), 255, np.uint8)
    for place, code in enumerate(shown):
        tile = to_rgb(GREY + _CONTRAST * code).repeat(zoom, axis=0).repeat(zoom, axis=1)
        top, left = place // columns * height + 2, place % columns * width + 2
        page[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return Image.fromarray(page)
