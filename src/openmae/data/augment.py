"""Augmentation of supervised training: crop and flip as in pretraining, then timm's RandAugment and
random erasing, as a function of (seed, position).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import posterize, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from openmae.data.transforms import TrainTransform
from openmae.data.values import Pixels
from openmae.errors import UsageError
from openmae.randomness import uniforms


@dataclass(frozen=True)
class AugmentTransform:
    """Crop, flip, RandAugment, random erasing, in the order of the published fine-tuning.

    The output is uint8 (C, H, W); with erasing, whose noise lives on the normalised scale, it is
    normalised float32. `randaug` is timm's text, such as "rand-m9-mstd0.5-inc1".
    """

    train: TrainTransform
    randaug: str | None
    erasing: float
    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if self.randaug is not None and len(self.mean) not in (1, 3):
            raise UsageError(
                f"RandAugment knows images of 1 or 3 channels, not {len(self.mean)}: --randaug none"
            )

    def draws(self, position: int, rows: int) -> NDArray[np.float64]:
        """The randomness of consecutive positions: crop and flip, then one seed for timm."""
        seeds = uniforms(self.train.seed, "augment", position, 1, rows)
        return np.concatenate([self.train.draws(position, rows), seeds], axis=1)

    def __call__(self, image: Pixels, draws: NDArray[np.float64]) -> Tensor:
        """Augment an image (H, W, C) by its row of `draws`."""
        out = self.train(image, draws[:-1])
        if self.randaug is None and not self.erasing:
            return out
        with seeded(int(draws[-1] * 2**32)):
            if self.randaug is not None:
                out = self._randaug(out)
            return self._erase(out) if self.erasing else out

    def _randaug(self, image: Tensor) -> Tensor:
        pixels = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        assert self.randaug is not None
        changed = np.array(_augmentation(self.randaug, self.train.size, tuple(self.mean))(picture))
        return torch.from_numpy(changed.reshape(pixels.shape)).permute(2, 0, 1)

    def _erase(self, image: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        normal = image if image.is_floating_point() else (image.float() / 255 - mean) / std
        erase = RandomErasing(self.erasing, mode="pixel", device="cpu")
        out: Tensor = erase(normal)
        return out


@lru_cache(maxsize=4)
def _augmentation(text: str, size: tuple[int, int], mean: tuple[float, ...]) -> Any:
    """RandAugment with the parameters that timm's own `create_transform` gives it."""
    parameters = {
        "translate_const": int(min(size) * 0.45),
        "img_mean": tuple(min(255, round(255 * m)) for m in mean),
        "interpolation": Image.Resampling.BICUBIC,
    }
    made = rand_augment_transform(text, parameters)
    for operation in made.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return made


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's, which asks for 0 bits at its strongest: black, as in the publication; Pillow 13
    refuses that.
    """
    return posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """timm draws from Python's, numpy's and torch's global generators: seed them, then restore."""
    python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(tensor)
