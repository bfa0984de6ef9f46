"""Settings of training on images without labels: which, how they are read and cropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import model_validator

from openmae.config.base import setting
from openmae.config.training import DATA, MODEL, Size, TrainingConfig, ValueRange, pair


class ImagesConfig(TrainingConfig):
    """Images of any channels and values, in random crops of one size."""

    data: str = setting(
        ..., "a folder of images, or the word digits", DATA, "allow", positional=True
    )

    image_size: Size = setting(224, "pixels: one number, or height and width", MODEL, "fixed")
    channels: int = setting(3, "channels of the images", MODEL, "fixed", ge=1)
    bands: tuple[int, ...] = setting(
        (), "channels of a file to read, counted from 1, in this order", DATA, "fixed"
    )
    value_range: ValueRange = setting(
        "auto", "of 16-bit and float images, such as 0:65535; auto looks", DATA, "fixed"
    )
    crop: float = setting(0.2, "smallest area of a random crop", DATA, "allow", gt=0, le=1)
    mean: tuple[float, ...] | None = setting(
        None, "of each channel in [0, 1]; measured by default", DATA, "fixed"
    )
    std: tuple[float, ...] | None = setting(
        None, "of each channel in [0, 1]; measured by default", DATA, "fixed"
    )
    val: str | None = setting(
        None, "held-out images: a folder, or a fraction such as 0.05", DATA, "allow"
    )
    mix: tuple[str, ...] = setting(
        (), "further images and their share of the draws: PATH=0.3", DATA, "allow"
    )

    @model_validator(mode="before")
    @classmethod
    def _channels_of_bands(cls, values: Any) -> Any:
        """--bands 4 3 2 are three channels, without saying so."""
        bands = values.get("bands")
        if bands and "channels" not in values:
            count = len(bands) if isinstance(bands, (list, tuple)) else 1
            return {**values, "channels": count}
        return values

    @property
    def patch(self) -> tuple[int, int] | None:
        """Patch height and width; None where the settings do not tell."""
        return None

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.patch or (1, 1)) < 1:
            yield "patch_size", ": must be at least 1"
        for size, patch in zip(pair(self.image_size), self.patch or (1, 1), strict=True):
            if size % patch or size < patch:
                low = max(size // patch, 1) * patch
                yield (
                    "image_size",
                    f" is not a multiple of patch {patch}. Nearest: {low} or {low + patch}",
                )
        if self.bands and min(self.bands) < 1:
            yield "bands", ": they are counted from 1"
        if self.bands and len(self.bands) != self.channels:
            yield "bands", f": {len(self.bands)} bands for {self.channels} channels"
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                yield name, f": {len(values)} values for {self.channels} channels"
        if self.std is not None and min(self.std) <= 0:
            yield "std", ": must be greater than 0"
        yield from super().problems()
