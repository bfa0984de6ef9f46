"""Crops and flips as pure functions of (seed, position), on 8-bit images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from openmae.data.values import Pixels
from openmae.randomness import uniforms

_TRIES = 10  # of torchvision's RandomResizedCrop, before it falls back to a central crop
_BICUBIC = InterpolationMode.BICUBIC


def to_tensor(image: Pixels) -> Tensor:
    """(H, W, C) uint8 array -> (C, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


@dataclass(frozen=True)
class TrainTransform:
    """RandomResizedCrop (area `crop` to 1, aspect 3/4 to 4/3, bicubic with antialiasing) and a flip
    (section A.1).

    `size` is (height, width) in pixels. The output is uint8 (C, height, width).
    """

    size: tuple[int, int]
    crop: float = 0.2
    flip: bool = True
    seed: int = 0

    def draws(self, position: int, rows: int) -> NDArray[np.float64]:
        """The randomness of `rows` images from a position on: (rows, numbers), made at once."""
        return uniforms(self.seed, "crop-flip", position, 4 * _TRIES + 1, rows)

    def __call__(self, image: Pixels, draws: NDArray[np.float64]) -> Tensor:
        """Crop and flip an image by its row of `draws`."""
        height, width = image.shape[:2]
        box = crop_box(height, width, self.crop, draws[:-1].reshape(_TRIES, 4))
        out = tv.resized_crop(to_tensor(image), *box, list(self.size), _BICUBIC, antialias=True)
        return tv.horizontal_flip(out) if self.flip and draws[-1] < 0.5 else out


@dataclass(frozen=True)
class EvalTransform:
    """Resize the shorter side to fit, then crop the centre: the largest central part of the right
    shape, or `crop_pct` of it (resize to size / crop_pct, then crop, as published: 256 to 224).
    """

    size: tuple[int, int]
    crop_pct: float = 1.0

    def __call__(self, image: Pixels) -> Tensor:
        height, width = image.shape[:2]
        scale = min(height / self.size[0], width / self.size[1])
        if self.crop_pct != 1:
            whole = [
                max(s, round(n / scale / self.crop_pct)) for s, n in self._sides(height, width)
            ]
            resized = tv.resize(to_tensor(image), whole, _BICUBIC, antialias=True)
            return tv.center_crop(resized, list(self.size))
        h, w = max(1, round(self.size[0] * scale)), max(1, round(self.size[1] * scale))
        top, left = (height - h) // 2, (width - w) // 2
        if (h, w) == self.size:
            return tv.crop(to_tensor(image), top, left, h, w)
        return tv.resized_crop(
            to_tensor(image), top, left, h, w, list(self.size), _BICUBIC, antialias=True
        )

    def _sides(self, height: int, width: int) -> list[tuple[int, int]]:
        return list(zip(self.size, (height, width), strict=True))


def crop_box(
    height: int, width: int, smallest: float, draws: np.ndarray
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop; the rule of torchvision's RandomResizedCrop,
    with given draws.

    `draws` (tries, 4) in [0, 1): area, aspect, top, left.
    """
    low, high = math.log(3 / 4), math.log(4 / 3)
    for area_draw, aspect_draw, top_draw, left_draw in draws:
        area = height * width * (smallest + (1 - smallest) * area_draw)
        aspect = math.exp(low + (high - low) * aspect_draw)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class ProbeTransform:
    """The crop of the published linear probe: area 0.08 to 1 and aspect 3/4 to 4/3 drawn once and
    cut to the image, without tries, and a flip.
    """

    size: tuple[int, int]
    seed: int = 0
    crop: float = 0.08

    def draws(self, position: int, rows: int) -> NDArray[np.float64]:
        """The randomness of `rows` images from a position on."""
        return uniforms(self.seed, "probe-crop", position, 5, rows)

    def __call__(self, image: Pixels, draws: NDArray[np.float64]) -> Tensor:
        """Crop and flip an image by its row of `draws`."""
        height, width = image.shape[:2]
        area = height * width * (self.crop + (1 - self.crop) * draws[0])
        low, high = math.log(3 / 4), math.log(4 / 3)
        aspect = math.exp(low + (high - low) * draws[1])
        w = min(width, max(1, round(math.sqrt(area * aspect))))
        h = min(height, max(1, round(math.sqrt(area / aspect))))
        top, left = int(draws[2] * (height - h + 1)), int(draws[3] * (width - w + 1))
        size = list(self.size)
        out = tv.resized_crop(to_tensor(image), top, left, h, w, size, _BICUBIC, antialias=True)
        return tv.horizontal_flip(out) if draws[4] < 0.5 else out
