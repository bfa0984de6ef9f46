"""Portable maps: PGM and PPM of more than 8 bits and PFM by numpy, exactly; the rest by Pillow."""

from __future__ import annotations

import re
import warnings
from typing import NamedTuple

import numpy as np

from openmae.data import picture
from openmae.data.header import Header, limit
from openmae.data.values import Pixels
from openmae.errors import DataError

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_START = re.compile(
    rb"P([2356fF])" + _GAP + rb"(\d{1,10})" + _GAP + rb"(\d{1,10})" + _GAP + rb"([-+.\deE]{1,20})\s"
)
_LOOK = 4096  # bytes in which the header has to end


class _Start(NamedTuple):
    kind: str
    height: int
    width: int
    scale: float
    offset: int

    @property
    def channels(self) -> int:
        """Of the letter."""
        return 3 if self.kind in "36F" else 1


def is_map(data: bytes) -> bool:
    """By the first bytes: P1 to P6, PF, Pf."""
    return data[:1] == b"P" and data[1:2] in b"123456fF" and data[2:3].isspace()


def read(data: bytes, gray: bool | None = None) -> Pixels:
    """(H, W, 1) or (H, W, 3): uint8, or uint16 and float32 as they are stored.

    Raises:
        DataError: too large, or truncated.
    """
    start = _deep(data)
    if start is None:
        return picture.read(data, gray, ("PPM",))
    limit(start.height, start.width, start.channels * (4 if start.kind in "fF" else 2), len(data))
    shape = (start.height, start.width, start.channels)
    count = start.height * start.width * start.channels
    if start.kind in "23":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of text that is no number: too few are found
            found = np.fromstring(data[start.offset :].decode("latin-1"), np.int64, sep=" ")
        if found.size < count or found.min() < 0 or found.max() > 65535:
            raise DataError(f"{found.size:,} of {count:,} values")
        return found[:count].astype(np.uint16).reshape(shape)
    kind = np.dtype(("<f4" if start.scale < 0 else ">f4") if start.kind in "fF" else ">u2")
    if len(data) - start.offset < count * kind.itemsize:
        raise DataError(f"truncated: {len(data):,} of {start.offset + count * kind.itemsize:,}")
    values = np.frombuffer(data, kind, count, start.offset).reshape(shape)
    values = values[::-1] if start.kind in "fF" else values  # PFM counts rows from below
    return np.ascontiguousarray(values, dtype=kind.newbyteorder("="))


def header(data: bytes) -> Header:
    """Of the first line."""
    start = _deep(data)
    if start is None:
        return picture.header(data, ("PPM",))
    floats = start.kind in "fF"
    limit(start.height, start.width, start.channels * (4 if floats else 2), len(data))
    kind = "float32" if floats else "uint16"
    return Header(start.height, start.width, start.channels, kind, "PFM" if floats else "PPM")


def _deep(data: bytes) -> _Start | None:
    """The header of a map of more than 8 bits; None where Pillow will do, or will say why not."""
    found = _START.match(data[:_LOOK])
    if found is None:
        return None
    kind, width, height, scale = (group.decode() for group in found.groups())
    if kind not in "fF" and not (scale.isdigit() and 255 < int(scale) <= 65535):
        return None
    try:
        return _Start(kind, int(height), int(width), float(scale), found.end())
    except ValueError:
        return None
