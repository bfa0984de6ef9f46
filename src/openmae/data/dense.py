"""Samples whose labels lie in the image: boxes, masks and maps go through the same resize, crop and
flip as their image, all of it a function of (seed, position).

A dense sample is a `Sample` with some of: boxes (n, 4) float32, x1, y1, x2, y2 in pixels; labels
(n,) int64; masks (n, H, W) bool. H and W height and width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from openmae.data.source import Source
from openmae.data.transforms import to_tensor
from openmae.data.values import Pixels
from openmae.errors import DataError
from openmae.randomness import uniforms

_BILINEAR = InterpolationMode.BILINEAR
_GRAY = 128  # of the border of 8-bit images, as published; 0 in normalised ones
_LEAST = 1.0  # pixels a side of an object that is kept


@dataclass(frozen=True)
class Place:
    """Where an image goes: resized to `whole`, of which the part from `top`, `left` on stands in
    the upper left of the output, mirrored afterwards where `flip` says so.
    """

    whole: tuple[int, int]
    top: int
    left: int
    flip: bool

    def shown(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of an output of `size` that the image fills."""
        return min(size[0], self.whole[0] - self.top), min(size[1], self.whole[1] - self.left)


@dataclass(frozen=True)
class JitterTransform:
    """Large-scale jitter (Ghiasi et al. 2021, as ViTDet uses it): the image that just fits into
    `size`, scaled by a factor of `jitter`; a random part where it is larger, a border at the right
    and the bottom where it is smaller; and a flip. The output is (C, *size).
    """

    size: tuple[int, int]
    jitter: tuple[float, float] = (0.1, 2.0)
    flip: bool = True
    seed: int = 0
    whole: ClassVar[bool] = True  # it is given samples, not images

    def draws(self, position: int, rows: int) -> NDArray[np.float64]:
        """The randomness of `rows` samples from a position on: scale, top, left, flip."""
        return uniforms(self.seed, "jitter", position, 4, rows)

    def __call__(self, sample: Mapping[str, Any], draws: NDArray[np.float64]) -> dict[str, Tensor]:
        """Place a sample by its row of `draws`."""
        height, width = sample["image"].shape[:2]
        low, high = self.jitter
        scale = min(self.size[0] / height, self.size[1] / width)
        scale *= low + (high - low) * float(draws[0])
        whole = max(1, round(height * scale)), max(1, round(width * scale))
        spare = [max(side - most, 0) for side, most in zip(whole, self.size, strict=True)]
        top, left = round(spare[0] * float(draws[1])), round(spare[1] * float(draws[2]))
        place = Place(whole, top, left, self.flip and bool(draws[3] < 0.5))
        out = {"image": place_image(sample["image"], self.size, place)}
        return out | place_objects(sample, self.size, place)


def fit(image: Pixels, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """An image as large as fits into `size`, with a border at the right and the bottom: (C, *size),
    and the height and width that it has there.
    """
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    whole = (
        min(size[0], max(1, round(height * scale))),
        min(size[1], max(1, round(width * scale))),
    )
    return place_image(image, size, Place(whole, 0, 0, False)), whole


class FitBatches(Dataset[dict[str, Any]]):
    """The images of a source in order, each fitted into `size`: `batches[i]` holds rows i * count
    and on, with their own height and width ("size") and those that they have now ("fitted"). What
    cannot be read is left out.
    """

    def __init__(self, source: Source, size: tuple[int, int], count: int) -> None:
        self.source, self.size, self.count = source, size, count

    def __len__(self) -> int:
        return -(-len(self.source) // self.count)

    def __getitem__(self, number: int) -> dict[str, Any]:
        told: dict[str, Any] = {n: [] for n in ("path", "id", "size", "fitted", "bad")}
        images: list[Tensor] = []
        last = min((number + 1) * self.count, len(self.source))
        for index in range(number * self.count, last):
            path = self.source.path(index)
            try:
                image = self.source.decoding(self.source.raw(index))
            except DataError as error:
                told["bad"].append((path, str(error)))
                continue
            out, fitted = fit(image, self.size)
            images.append(out)
            for name, value in (("path", path), ("id", index), ("fitted", fitted)):
                told[name].append(value)
            told["size"].append((image.shape[0], image.shape[1]))
        return told | {"image": torch.stack(images) if images else None}


def place_image(image: Pixels, size: tuple[int, int], place: Place) -> Tensor:
    """(H, W, C) -> (C, *size); bilinear with antialiasing."""
    out = tv.resize(to_tensor(image), list(place.whole), _BILINEAR, antialias=True)
    rows, columns = place.shown(size)
    out = out[:, place.top : place.top + rows, place.left : place.left + columns]
    fill = _GRAY if out.dtype == torch.uint8 else 0
    out = F.pad(out, (0, size[1] - columns, 0, size[0] - rows), value=fill)
    return out.flip(-1) if place.flip else out.contiguous()


def place_objects(
    sample: Mapping[str, Any], size: tuple[int, int], place: Place
) -> dict[str, Tensor]:
    """Boxes, labels and (uint8) masks of what is still seen. A box that the edge cuts is that of
    its mask, where there is one.
    """
    height, width = sample["image"].shape[:2]
    boxes = torch.as_tensor(sample.get("boxes", np.zeros((0, 4))), dtype=torch.float32)
    boxes = boxes.reshape(-1, 4)
    labels = torch.as_tensor(sample.get("labels", np.zeros(0)), dtype=torch.int64)
    scale = torch.tensor([place.whole[1] / width, place.whole[0] / height] * 2)
    boxes = boxes * scale - torch.tensor([place.left, place.top] * 2)
    rows, columns = place.shown(size)
    inside = torch.minimum(boxes.clamp(min=0), torch.tensor([columns, rows] * 2))
    cut = (inside - boxes).abs().amax(1) > 1e-3 if len(boxes) else torch.zeros(0, dtype=torch.bool)
    seen = ((inside[:, 2:] - inside[:, :2]) >= _LEAST).all(1)
    masks = None
    if sample.get("masks") is not None:
        own = torch.as_tensor(sample["masks"])[seen]
        masks = place_masks(own, size, place, (height, width))
        filled = masks.flatten(1).any(1) if len(masks) else torch.zeros(0, dtype=torch.bool)
        masks = masks[filled]
        seen = seen.nonzero()[:, 0][filled]
        inside, cut = inside[seen], cut[seen]
        inside = torch.where(cut[:, None], bounds(masks), inside)
    else:
        inside = inside[seen]
    if place.flip:
        inside = torch.stack(
            [size[1] - inside[:, 2], inside[:, 1], size[1] - inside[:, 0], inside[:, 3]], 1
        )
        masks = None if masks is None else masks.flip(-1)
    out = {"boxes": inside, "labels": labels[seen]}
    return out if masks is None else out | {"masks": masks.to(torch.uint8)}


def place_masks(masks: Tensor, size: tuple[int, int], place: Place, old: tuple[int, int]) -> Tensor:
    """Masks (n, *old) -> bool (n, *size), without the flip: bilinear at the centre of each pixel,
    at least a half.
    """
    out = torch.zeros(len(masks), *size, dtype=torch.bool)
    rows, columns = place.shown(size)
    if not len(masks):
        return out
    y = (torch.arange(rows) + place.top + 0.5) / place.whole[0] * 2 - 1
    x = (torch.arange(columns) + place.left + 0.5) / place.whole[1] * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    values = F.grid_sample(masks[None].float(), grid, padding_mode="border", align_corners=False)
    out[:, :rows, :columns] = values[0] >= 0.5
    return out


def bounds(masks: Tensor) -> Tensor:
    """Masks (n, H, W), none of them empty -> the boxes around them (n, 4)."""
    if not len(masks):
        return torch.zeros(0, 4)
    found = []
    for mask in masks:
        y, x = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        found.append([float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)])
    return torch.tensor(found)
