"""The augmentations of Table 1e of the paper, as pure functions of (seed, position)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from openmae.data.transforms import _BICUBIC, _TRIES, EvalTransform, TrainTransform, to_tensor
from openmae.data.values import Pixels
from openmae.data.views import ViewsTransform, jittered
from openmae.randomness import uniforms

STRENGTH = (0.4, 0.4, 0.4, 0.1)
"""Of the jitter's brightness, contrast, saturation and hue: ours, as the paper names none."""

SHARE = 0.875
"""Side of a crop of fixed size, of the largest that fits (224 of 256)."""


@dataclass(frozen=True)
class Augmented(TrainTransform):
    """`TrainTransform` by another of the paper's choices.

    Attributes:
        augment: "none" is the central part and no flip; "fixed" a random crop of `SHARE` of the
            largest square that fits, and a flip; "crop" is `TrainTransform` to the bit; "jitter"
            the same with colours changed after it (saturation and hue of 3 channels alone).
        mean, std: of the channels on the unit scale, where images are normalised floats.
    """

    augment: str = "crop"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def draws(self, position: int, rows: int) -> NDArray[np.float64]:
        """The randomness of `rows` images: that of `TrainTransform`, and the jitter's after it."""
        own = super().draws(position, rows)
        if self.augment != "jitter":
            return own
        return np.column_stack([own, uniforms(self.seed, "jitter", position, 5, rows)])

    def __call__(self, image: Pixels, draws: NDArray[np.float64]) -> Tensor:
        """The image by its row of `draws`."""
        if self.augment == "none":
            return EvalTransform(self.size)(image)
        if self.augment == "fixed":
            return self._fixed(image, draws)
        out = super().__call__(image, draws[: 4 * _TRIES + 1])
        if self.augment != "jitter":
            return out
        scale = ViewsTransform(self.size, (), self.seed, self.mean, self.std)
        *factors, order = draws[4 * _TRIES + 1 :].tolist()
        return scale._back(jittered(scale._unit(out), STRENGTH, factors, order), out)

    def _fixed(self, image: Pixels, draws: NDArray[np.float64]) -> Tensor:
        height, width = image.shape[:2]
        scale = SHARE * min(height / self.size[0], width / self.size[1])
        h, w = (max(1, round(side * scale)) for side in self.size)
        top, left = int(draws[2] * (height - h + 1)), int(draws[3] * (width - w + 1))
        out = tv.resized_crop(
            to_tensor(image), top, left, h, w, list(self.size), _BICUBIC, antialias=True
        )
        return tv.horizontal_flip(out) if self.flip and draws[-1] < 0.5 else out
