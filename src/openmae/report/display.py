"""How images of any channels and values become visible: which bands, and which values are black and
white.

C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.errors import UsageError
from openmae.models.encoder import Encoder
from openmae.report.picturestyle import shown_size

GREY = 0.5  # of what is hidden
_SENTINEL2 = {12: (3, 2, 1), 13: (3, 2, 1)}  # B4, B3, B2 of Level-2A and -1C files
_PERCENT = (2.0, 98.0)


@dataclass(frozen=True)
class Display:
    """One band as gray or three as red, green and blue.

    Attributes:
        bands: channels of the model that are shown, counted from 0.
        numbers: the same in the file, counted from 1.
        channels: of the model.
        value_range: of what is not 8-bit; such images are stretched between percentiles.
    """

    bands: tuple[int, ...]
    numbers: tuple[int, ...]
    channels: int
    value_range: tuple[float, float] | None = None

    def title(self) -> str:
        """What has to be said of it, or nothing."""
        parts = []
        if self.channels > 3 or self.channels == 2 or len(self.bands) not in (1, 3):
            words = " ".join(map(str, self.numbers))
            plural = "s" if len(self.numbers) > 1 else ""
            parts.append(f"band{plural} {words} of {self.channels}")
        if self.value_range is not None:
            low, high = self.value_range
            parts.append(f"values {low:g}:{high:g}, each original's 2 to 98 % from black to white")
        return "".join(f", {part}" for part in parts)

    def window(self, original: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """(2, bands, 1, 1): what is black and white in an image of deep values (C, H, W)."""
        if self.value_range is None:
            return None
        shown = original[list(self.bands)].reshape(len(self.bands), -1)
        low, high = np.nanpercentile(shown, _PERCENT, axis=1)
        high = np.where(high > low, high, low + 1)
        found: NDArray[np.float32] = np.stack([low, high])[..., None, None].astype(np.float32)
        return found


def display_of(encoder: Encoder, chosen: Sequence[int] = ()) -> Display:
    """The bands that are asked for (numbers in the file, from 1), or sensible ones: red, green and
    blue of Sentinel-2, else the first three; gray where there are fewer.

    Raises:
        UsageError: the model does not see such a band, or not one or three are asked for.
    """
    channels = encoder.in_chans
    own = tuple(band + 1 for band in encoder.bands) or tuple(range(1, channels + 1))
    if chosen:
        lost = [number for number in chosen if number not in own]
        if lost or len(chosen) not in (1, 3):
            raise UsageError(
                f"--bands {' '.join(map(str, chosen))}: give one or three of"
                f" {' '.join(map(str, own[:20]))}"
            )
        bands = tuple(own.index(number) for number in chosen)
    elif channels < 3:
        bands = (0,)
    else:
        bands = (0, 1, 2) if encoder.bands else _SENTINEL2.get(channels, (0, 1, 2))
    return Display(bands, tuple(own[b] for b in bands), channels, encoder.value_range)


def gain_of(values: NDArray[np.floating]) -> float:
    """How much to brighten dark values on the unit scale (fluorescence) so that they can be seen; 1
    for others.
    """
    bright = float(np.quantile(values, 0.995))
    return 1.0 if bright > 0.5 else round(min(1 / max(bright, 1e-3), 20.0), 1)


def unit_of(
    image: NDArray[np.generic], encoder: Encoder, bands: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """An image (C, H, W) as a model reads it, uint8 or normalised, on the unit scale; with `bands`
    it has only these.
    """
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255)
    chosen = slice(None) if bands is None else list(bands)
    mean, std = (value.cpu().numpy()[chosen] for value in (encoder.mean, encoder.std))
    unit: NDArray[np.float32] = image.astype(np.float32) * std + mean
    return unit


def visible(image: NDArray[np.generic], encoder: Encoder) -> tuple[NDArray[np.uint8], str]:
    """An image (H, W, C) as a model reads it -> (H, W, 3) for the eye, and what has to be said of
    that. A very large one becomes as small as it is shown.
    """
    shown = display_of(encoder)
    picked = _shrunk(image[..., list(shown.bands)]).transpose(2, 0, 1)
    unit, every = unit_of(picked, encoder, shown.bands), tuple(range(len(shown.bands)))
    gain = gain_of(unit) if shown.value_range is None else 1.0
    words = shown.title() + (f", shown {gain:g} times brighter" if gain > 1 else "")
    window = replace(shown, bands=every).window(unit)
    return to_rgb(unit, gain, every, window), words


def _shrunk(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """Bands (H, W, C), each as a picture by itself shows it at most: before values become floats,
    which of a very large image would not fit in memory.
    """
    height, width = image.shape[:2]
    size = shown_size(width, height)
    if size[0] >= width and size[1] >= height:
        return image
    kind = np.uint8 if image.dtype == np.uint8 else np.float32
    bands = [Image.fromarray(np.ascontiguousarray(b, kind)) for b in np.moveaxis(image, 2, 0)]
    return np.stack([np.asarray(b.resize(size, Image.Resampling.LANCZOS)) for b in bands], axis=-1)


def to_rgb(
    picture: NDArray[np.float32],
    gain: float = 1.0,
    bands: Sequence[int] | None = None,
    window: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """(C, H, W) on the unit scale -> (H, W, 3): by default gray for one or two channels, else the
    first three.

    What is hidden (NaN) is mid-gray, whatever gain and window.
    """
    if bands is None:
        bands = (0, 1, 2) if len(picture) >= 3 else (0,)
    shown = picture[list(bands)]
    if window is not None:
        shown = (shown - window[0]) / (window[1] - window[0])
    shown = shown.repeat(3, axis=0) if len(shown) == 1 else shown
    shown = np.where(np.isnan(shown), GREY, np.clip(shown * gain, 0, 1))
    return np.rint(shown.transpose(1, 2, 0) * 255).astype(np.uint8)
