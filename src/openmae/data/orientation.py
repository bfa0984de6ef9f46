"""How a camera was held: the EXIF orientation, 1 to 8, and an image turned upright by it."""

from __future__ import annotations

import numpy as np

from openmae.data.values import Pixels

_TAG = 0x0112
_ORDERS = {b"II": "little", b"MM": "big"}
_SIZES = {1: 1, 3: 2, 4: 4}  # of EXIF's types BYTE, SHORT, LONG
_ENTRIES = 512  # that are looked at; a camera writes a few dozen


def exif_orientation(block: bytes) -> int:
    """1 to 8 as EXIF counts; 1, upright, where the block names none or is broken: the pixels are
    good all the same.

    `block` is an EXIF block with or without its leading "Exif" and two zeros.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = _ORDERS.get(block[:2])
    if order is None or len(block) < 10:
        return 1

    def number(start: int, size: int) -> int:
        return int.from_bytes(block[start : start + size], order)  # type: ignore[arg-type]

    start = number(4, 4)
    for entry in range(start + 2, start + 2 + 12 * min(number(start, 2), _ENTRIES), 12):
        if entry + 12 > len(block):
            break
        if number(entry, 2) == _TAG:
            size = _SIZES.get(number(entry + 2, 2), 2)
            return valid(number(entry + 8, size))
    return 1


def valid(value: object) -> int:
    """The orientation, or 1 for what is none."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(image: Pixels, orientation: int) -> Pixels:
    """(H, W, C) as it was seen; a copy unless the orientation is 1."""
    if orientation == 1:
        return image
    if orientation >= 5:  # 5 to 8 lie on their side
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width once upright."""
    return (width, height) if orientation >= 5 else (height, width)
