"""How images of any channels and values become visible: which bands, and which values are black and
white.

C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmae.errors import UsageError
from openmae.models.encoder import Encoder

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
