"""From the values of a file to those of a sample: which bands, which range, how many channels.

8-bit images stay 8-bit until they are on the device. Deeper ones (16-bit, float) never pass through
8 bits: they become float32 on the unit scale of a stated value range, (value - low) / (high - low),
without clipping, so that physical values can be had back exactly.

H height, W width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.errors import DataError

Pixels = NDArray[Any]
"""(H, W, C) of the type of the file."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Decoding:
    """How the values of files are read; the same for every image of a run.

    Attributes:
        channels: wanted; None keeps what a file has.
        bands: which channels of a file, counted from 0, and in which order; none for all.
        value_range: (low, high) of what is not 8-bit; None refuses such files.
        mean, std: of each channel on the unit scale. With a value range, samples are normalised by
            them; 8-bit samples never are.
    """

    channels: int | None = None
    bands: tuple[int, ...] = ()
    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def gray(self) -> bool | None:
        """What a decoder of JPEG may do at once: gray (True), colour (False), or as it is."""
        if self.bands or self.channels not in (1, 3):
            return None
        return self.channels == 1

    def __call__(self, image: Pixels) -> Pixels:
        """An image as it is in the file -> uint8, or with a value range float32.

        Raises:
            DataError: the file lacks a band, or has values or channels of another kind.
        """
        image = self.select(image)
        if image.dtype == np.bool_:
            image = image.astype(np.uint8) * np.uint8(255)
        if self.value_range is not None:
            image = unit_scale(image, self.value_range)
        elif image.dtype != np.uint8:
            raise DataError(
                f"{image.dtype} values where 8-bit ones are read (pretrain --value-range)"
            )
        if self.channels is not None:
            image = fit_channels(image, self.channels)
        if self.value_range is not None and self.mean is not None and self.std is not None:
            mean, std = (np.array(v, dtype=np.float32) for v in (self.mean, self.std))
            image = (image - mean) / std
        return image

    def select(self, image: Pixels) -> Pixels:
        """The bands that are asked for, as they are in the file.

        Raises:
            DataError: the file lacks one.
        """
        if not self.bands:
            return image
        if max(self.bands) >= image.shape[2]:
            raise DataError(
                f"has {image.shape[2]} bands, --bands asks for number {max(self.bands) + 1}"
            )
        return image[..., list(self.bands)]


def unit_scale(image: Pixels, value_range: tuple[float, float]) -> NDArray[np.float32]:
    """Values -> float32 with the range at 0 and 1, unclipped; 8-bit images by their own 255.

    What is not a number (no data) becomes the lower end.

    Raises:
        DataError: no value is a number.
    """
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255)
    low, high = value_range
    if image.dtype.kind == "c":
        raise DataError("complex values; give their magnitude")
    # float64 first: a difference of large integers must not be rounded
    scaled: NDArray[np.float32] = ((image.astype(np.float64) - low) / (high - low)).astype(
        np.float32
    )
    if image.dtype.kind == "f":
        finite = np.isfinite(scaled)
        if not finite.any():
            raise DataError("no value is a number")
        if not finite.all():
            scaled = np.where(finite, scaled, np.float32(0))
    return scaled


def fit_channels(image: Pixels, channels: int) -> Pixels:
    """Gray becomes RGB by repetition, RGB gray by luma, alpha is dropped; no other conversion.

    Raises:
        DataError: another number of channels.
    """
    have = image.shape[2]
    if have == channels:
        return image
    if channels == 3 and have == 1:
        return image.repeat(3, axis=2)
    if channels == 3 and have == 4:
        return image[..., :3]
    if channels == 1 and have in (3, 4):
        if image.dtype == np.uint8:
            colour = Image.fromarray(np.ascontiguousarray(image[..., :3]))
            return np.array(colour.convert("L"))[..., None]
        return image[..., :3] @ _LUMA[:, None]
    raise DataError(f"has {have} channels, not {channels}")


def auto_range(lows: Sequence[float], highs: Sequence[float], kind: str) -> tuple[float, float]:
    """A value range from the extremes of some images: integers from 0 to the next 2^k - 1 (12-bit
    data in 16-bit files), floats in [0, 1] as they are, others as measured.

    `kind` is numpy's letter of the type: "u", "i" or "f".
    """
    low, high = float(min(lows)), float(max(highs))
    if kind in "ui" and low >= 0:
        bits = max(8, math.ceil(math.log2(high + 1))) if high > 0 else 8
        return 0.0, float(2**bits - 1)
    if kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    return (low, high) if high > low else (low, low + 1.0)
