"""Several random views of one image, as contrastive and self-distilling methods compare them: crop,
flip, colours, blur and solarisation, as pure functions of (seed, position).

Images are uint8, or float32 on the scale of a value range that is normalised by mean and std of its
channels. Colours are changed in float32 on the unit scale. H, W height and width, C channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from openmae.data.transforms import crop_box, to_tensor
from openmae.data.values import Pixels
from openmae.randomness import uniforms

_TRIES = 10  # of a crop
_OWN = (
    12  # further draws of a view: flip, jitter, 4 factors, order, gray, blur, its width, solarise
)
_BICUBIC = InterpolationMode.BICUBIC
_LUMA = (0.2989, 0.587, 0.114)  # as torchvision has them
_ORDERS = list(itertools.permutations(range(4)))


@dataclass(frozen=True)
class View:
    """How a view is made; the defaults are MoCo v3's, but for blur and solarisation.

    Attributes:
        size: (height, width) in pixels; None: the size of the method's images.
        crop: smallest and largest share of the area.
        flip: whether half of them are mirrored.
        jitter: largest change of brightness, contrast, saturation and hue. Saturation and hue are
            those of 3 channels.
        jitter_p, gray_p, blur_p, solarize_p: probability of each. Gray is of 3 channels.
        sigma: smallest and largest width of the blur, in pixels where images are of 224; it is
            scaled with the size of the method's images.
    """

    size: tuple[int, int] | None = None
    crop: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_p: float = 0.0
    solarize_p: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)


@dataclass(frozen=True)
class ViewsTransform:
    """The views of an image: {"image" (V, C, H, W)} of those of the full size, and {"local" (V', C,
    h, w)} of the others, if there are any.

    Args:
        size: (height, width) of the method's images.
        views: each one's `View`, or its keyword arguments.
        mean, std: of the channels on the unit scale; they give float32 images back their unit
            scale. Without them these are taken to be on it.
    """

    size: tuple[int, int]
    views: Sequence[View | dict[str, Any]]
    seed: int = 0
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    whole = True  # takes the sample, and gives a dict

    def __post_init__(self) -> None:
        made = [v if isinstance(v, View) else View(**v) for v in self.views]
        sized = [replace(v, size=v.size or self.size) for v in made]
        object.__setattr__(self, "views", tuple(sized))

    def draws(self, position: int, rows: int) -> NDArray[np.float64]:
        """The randomness of `rows` images from a position on."""
        width = len(self.views) * (4 * _TRIES + _OWN)
        return uniforms(self.seed, "views", position, width, rows)

    def __call__(self, sample: Any, draws: NDArray[np.float64]) -> dict[str, Tensor]:
        """The views of a sample, or of an image (H, W, C), by its row of `draws`."""
        pixels: Pixels = sample["image"] if isinstance(sample, dict) else sample
        image = to_tensor(pixels)
        found: dict[str, list[Tensor]] = {"image": [], "local": []}
        for view, row in zip(self.views, draws.reshape(len(self.views), -1), strict=True):
            assert isinstance(view, View)
            name = "image" if view.size == self.size else "local"
            found[name].append(self._view(image, view, row))
        return {name: torch.stack(made) for name, made in found.items() if made}

    def _view(self, image: Tensor, view: View, draws: NDArray[np.float64]) -> Tensor:
        assert view.size is not None
        low, high = view.crop
        tries = draws[: 4 * _TRIES].reshape(_TRIES, 4).copy()
        # `crop_box` draws areas from `low` to 1
        tries[:, 0] *= (high - low) / (1 - low) if low < 1 else 0.0
        box = crop_box(image.shape[1], image.shape[2], low, tries)
        out = tv.resized_crop(image, *box, list(view.size), _BICUBIC, antialias=True)
        own = draws[4 * _TRIES :].tolist()
        if view.flip and own[0] < 0.5:
            out = out.flip(-1)
        changes = (own[1] < view.jitter_p, own[7] < view.gray_p, own[8] < view.blur_p)
        if not any(changes) and own[10] >= view.solarize_p:
            return out
        unit = self._unit(out)
        if changes[0]:
            unit = jittered(unit, view.jitter, own[2:6], own[6])
        if changes[1] and len(unit) == 3:
            unit = _gray(unit).expand(3, -1, -1)
        if changes[2]:
            least, most = view.sigma
            unit = blurred(unit, (least + (most - least) * own[9]) * min(self.size) / 224)
        if own[10] < view.solarize_p:
            unit = torch.where(unit >= 0.5, 1 - unit, unit)
        return self._back(unit, out)

    def _unit(self, image: Tensor) -> Tensor:
        if image.dtype == torch.uint8:
            return image.float().mul_(1 / 255)
        if self.mean is None or self.std is None:
            return image
        mean, std = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in self._scale())
        return image * std + mean

    def _back(self, unit: Tensor, like: Tensor) -> Tensor:
        if like.dtype == torch.uint8:
            return unit.mul(255).round_().clamp_(0, 255).to(torch.uint8)
        if self.mean is None or self.std is None:
            return unit
        mean, std = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in self._scale())
        return (unit - mean) / std

    def _scale(self) -> tuple[Sequence[float], Sequence[float]]:
        assert self.mean is not None
        assert self.std is not None
        return self.mean, self.std


def jittered(
    image: Tensor, strength: Sequence[float], draws: Sequence[float], order: float
) -> Tensor:
    """Brightness, contrast, saturation and hue of (C, H, W) on the unit scale, in one of the 24
    orders; each as torchvision's ColorJitter. Values are cut to [0, 1] after each.

    `draws` in [0, 1) choose the factors in [1 - strength, 1 + strength], of hue in +-strength.
    """
    for kind in _ORDERS[int(order * 24)]:
        if not strength[kind] or (kind > 1 and len(image) != 3):
            continue
        change = strength[kind] * (2 * draws[kind] - 1)
        factor = max(0.0, 1 + change)
        if kind == 0:
            image = (image * factor).clamp_(0, 1)
        elif kind == 1:
            middle = _gray(image).mean() if len(image) == 3 else image.mean()
            image = _mixed(image, middle, factor)
        elif kind == 2:
            image = _mixed(image, _gray(image), factor)
        else:
            image = hue_moved(image, change)
    return image


def _mixed(image: Tensor, other: Tensor, factor: float) -> Tensor:
    return (image * factor).add_(other, alpha=1 - factor).clamp_(0, 1)


def _gray(image: Tensor) -> Tensor:
    red, green, blue = _LUMA
    return (image[0] * red).add_(image[1], alpha=green).add_(image[2], alpha=blue)[None]


def hue_moved(image: Tensor, turn: float) -> Tensor:
    """Turn the hue of (3, H, W) in [0, 1] by a share of the circle, in [-0.5, 0.5]; values of
    another range are cut to it.

    In the HSV space: with v = max and c = max - min, channel n is v - c * clamp(min(k, 4 - k), 0,
    1), k = n + 6h mod 6 for n = 5, 3, 1.
    """
    image = image.clamp(0, 1)
    value, spread = image.amax(0), image.amax(0) - image.amin(0)
    red, green, blue = image
    safe = torch.where(spread > 0, spread, 1.0)
    of_red, of_green, of_blue = (green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe
    sixth = torch.where(value == red, of_red, torch.where(value == green, of_green, of_blue + 4))
    k = (sixth[None] + (6 * turn + torch.tensor([5.0, 3.0, 1.0])[:, None, None])).remainder_(6)
    share = torch.minimum(k, 4 - k).clamp_(0, 1)
    return value - spread * share


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (C, H, W), cut at 3 sigma, with mirrored borders."""
    reach = min(max(1, math.ceil(3 * sigma)), min(image.shape[-2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    out = F.pad(image[:, None], (reach, reach, reach, reach), mode="reflect")
    out = F.conv2d(out, kernel[None, None, :, None])
    return F.conv2d(out, kernel[None, None, None, :])[:, 0]
