"""Crops of images with their masks, as pure functions of (seed, position).

H and W height and width in pixels, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from openmae.data.maskfile import IGNORED
from openmae.data.source import Sample
from openmae.data.transforms import to_tensor
from openmae.randomness import uniforms

_TRIES = 10  # crops that are drawn until no class fills one, as published
_COLOUR = 9  # draws of `distorted`


def base_scale(height: int, width: int, short_side: int | None) -> float:
    """What an image is multiplied with so that its shorter side is as given; 1 if none is."""
    return 1.0 if short_side is None else short_side / min(height, width)


@dataclass(frozen=True)
class CropTransform:
    """Resize by a random scale, cut a random crop, mirror half of them, and change the colours: the
    training of UPerNet on ADE20K as published (mmsegmentation).

    Attributes:
        size: (height, width) of the crop in pixels.
        short_side: the shorter side of an image at scale 1; None: as it is.
        scale: smallest and largest random scale, drawn evenly.
        most: a crop of which one class fills more is drawn again.
        flip, colours: whether to mirror, and to change brightness, contrast, saturation and hue (of
            8-bit RGB alone).
        fill: values of the channels beyond the image's end; zeros by default.
    """

    size: tuple[int, int]
    short_side: int | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    most: float = 0.75
    flip: bool = True
    colours: bool = True
    fill: tuple[int, ...] = ()
    seed: int = 0
    whole = True  # takes the sample, not its image alone

    def draws(self, position: int, rows: int) -> NDArray[np.float64]:
        """The randomness of `rows` images from a position on."""
        return uniforms(self.seed, "mask-crop", position, 2 + 2 * _TRIES + _COLOUR, rows)

    def __call__(self, sample: Sample, draws: NDArray[np.float64]) -> dict[str, Any]:
        """A sample -> {"image" (C, h, w), "mask" (h, w) int16}. Where the image ends inside the
        crop there is `fill`, and no label.
        """
        image, mask = sample["image"], sample.get("mask")
        height, width = image.shape[:2]
        if mask is None:  # stands in for what could not be read
            mask = np.full((height, width), IGNORED, dtype=np.int16)
        low, high = self.scale
        factor = base_scale(height, width, self.short_side) * (low + (high - low) * draws[0])
        h = min(height, max(1, round(self.size[0] / factor)))
        w = min(width, max(1, round(self.size[1] / factor)))
        top, left = self._place(mask, h, w, draws[2 : 2 + 2 * _TRIES].reshape(_TRIES, 2))
        out = tuple(
            min(side, max(1, round(n * factor))) for side, n in zip(self.size, (h, w), strict=True)
        )
        part = to_tensor(image[top : top + h, left : left + w])
        label = torch.from_numpy(np.ascontiguousarray(mask[top : top + h, left : left + w]))
        part = tv.resize(part, list(out), InterpolationMode.BILINEAR, antialias=True)
        label = tv.resize(label[None], list(out), InterpolationMode.NEAREST_EXACT)[0]
        if self.flip and draws[1] < 0.5:
            part, label = part.flip(-1), label.flip(-1)
        if self.colours and part.dtype == torch.uint8 and len(part) == 3:
            part = distorted(part, draws[2 + 2 * _TRIES :])
        room = (0, self.size[1] - out[1], 0, self.size[0] - out[0])
        whole = F.pad(part, room)
        for channel, value in enumerate(self.fill):
            whole[channel, :, out[1] :] = whole[channel, out[0] :] = value
        return {"image": whole, "mask": F.pad(label, room, value=IGNORED)}

    def _place(
        self, mask: NDArray[np.int16], h: int, w: int, draws: NDArray[np.float64]
    ) -> tuple[int, int]:
        top = left = 0
        for down, right in draws:
            top = int(down * (mask.shape[0] - h + 1))
            left = int(right * (mask.shape[1] - w + 1))
            if self.most >= 1:
                break
            part = mask[top : top + h, left : left + w]
            counts = np.bincount((part[part != IGNORED]).ravel(), minlength=1)
            if np.count_nonzero(counts) > 1 and counts.max() < self.most * counts.sum():
                break
        return top, left


def distorted(image: Tensor, draws: NDArray[np.float64]) -> Tensor:
    """Brightness, contrast, saturation and hue of (3, H, W) uint8, each with probability 1/2;
    contrast first or last.
    """

    def between(low: float, high: float, draw: float) -> float:
        return float(low + (high - low) * draw)

    if draws[0] < 0.5:  # added, as published: 32 of 256
        moved = image.to(torch.int16) + round(between(-32, 32, draws[1]))
        image = moved.clamp(0, 255).to(torch.uint8)
    contrast = between(0.5, 1.5, draws[3]) if draws[2] < 0.5 else None
    if contrast is not None and draws[8] < 0.5:
        image = _times(image, contrast)
    if draws[4] < 0.5:
        image = tv.adjust_saturation(image, between(0.5, 1.5, draws[5]))
    if draws[6] < 0.5:
        image = tv.adjust_hue(image, between(-0.1, 0.1, draws[7]))
    if contrast is not None and draws[8] >= 0.5:
        image = _times(image, contrast)
    return image


def _times(image: Tensor, factor: float) -> Tensor:
    return (image.float() * factor).round().clamp(0, 255).to(torch.uint8)
