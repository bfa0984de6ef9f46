"""Settings of `openmae pretrain` and `openmae quickstart`; defaults are the paper's (Table 8)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from pydantic import field_validator

from openmae.config.base import MOST_SEED, Settings, setting, shown
from openmae.config.fields import any_device
from openmae.config.groupoptions import GroupOptions
from openmae.config.images import ImagesConfig
from openmae.config.maskoptions import DecoderName, MaskName, MaskOptions
from openmae.config.methodoptions import MethodOptions
from openmae.config.targetoptions import TargetName, TargetOptions
from openmae.config.training import MODEL, RUN, TRAINING, Size, pair

_OF_THE_METHOD = (
    *("mask", "mask_ratio", "predict", "masks", "progressive", "target", "target_args"),
    *("decoder", "decoder_dim", "decoder_depth", "decoder_heads", "decoder_fusion"),
    *("mask_unit", "mask_ratio_end", "mask_tokens", "uniformity"),
)
"""What a recipe of one method says of it, and not to another."""


class PretrainConfig(GroupOptions, MethodOptions, TargetOptions, MaskOptions, ImagesConfig):
    """Pretrain a masked autoencoder on a folder of images. Labels are never needed."""

    parts_of: ClassVar = {
        "model": ("dim", "depth", "heads"),
        "channels": ("mean", "std"),
        "target": ("target_args",),
        "method": ("method_args", *_OF_THE_METHOD),
        "decoder": ("decoder_fusion", "predict", "mask_tokens"),
        "image_size": ("progressive",),
    }

    model: str = setting("vit_base_patch16_224", "encoder, a timm name", MODEL, "fixed")
    dim: int | None = setting(None, "encoder width, instead of the model's", MODEL, "fixed", gt=0)
    depth: int | None = setting(
        None, "encoder blocks, instead of the model's", MODEL, "fixed", gt=0
    )
    heads: int | None = setting(None, "encoder heads, instead of the model's", MODEL, "fixed", gt=0)
    patch_size: Size | None = setting(None, "pixels; the model's own by default", MODEL, "fixed")
    mask: MaskName = setting("random", "how patches are chosen", MODEL, "allow")
    mask_ratio: float = setting(0.75, "share of the patches to hide", MODEL, "allow")
    target: TargetName = setting("norm_pixels", "what is predicted", MODEL, "allow")
    decoder_dim: int = setting(512, "decoder width", MODEL, "fixed", gt=0)
    decoder_depth: int = setting(8, "decoder blocks", MODEL, "fixed", ge=1)
    decoder_heads: int = setting(16, "decoder heads", MODEL, "fixed", gt=0)
    decoder: DecoderName = setting(
        "self",
        "cross: mask tokens only read visible ones (CrossMAE: fine-tuning equal)",
        MODEL,
        "fixed",
    )
    decoder_fusion: bool = setting(
        False, "the decoder reads learned sums of all encoder blocks", MODEL, "fixed"
    )
    predict: float = setting(
        1.0,
        "cross decoder: share of the hidden patches to predict (CrossMAE: 1, H 0.33)",
        MODEL,
        "allow",
        gt=0,
        le=1,
    )
    masks: int = setting(
        1, "masks of each image in a step; batch-size and epochs count images", MODEL, "allow", ge=1
    )
    progressive: tuple[str, ...] = setting(
        (),
        "smaller images first: SIZE:SHARE, 128:0.5 until half the run (DailyMAE)",
        MODEL,
        "allow",
    )
    init: str | None = setting(
        None, "start from the weights of a run or encoder file", MODEL, "fixed"
    )

    knn: bool = setting(False, "k-NN accuracy at each evaluation, from class folders", RUN, "free")

    @field_validator("progressive")
    @classmethod
    def _stages(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            parse_stage(word)
        return words

    @property
    def stages(self) -> list[tuple[tuple[int, int], float]]:
        """Smaller image sizes in pixels, each with the share of the run at which it ends."""
        return [parse_stage(word) for word in self.progressive]

    @property
    def patch(self) -> tuple[int, int] | None:
        """Patch height and width, read from the model's name where it is not given; None if that
        does not tell.
        """
        if self.patch_size is not None:
            return pair(self.patch_size)
        found = re.search(r"patch(\d+)", self.model)
        return (int(found[1]), int(found[1])) if found else None

    def problems(self) -> Iterator[tuple[str, str]]:
        if not 0.05 <= self.mask_ratio <= 0.95:
            hint = (
                f" give a fraction, {self.mask_ratio / 100:g}?"
                if 5 <= self.mask_ratio <= 95
                else ""
            )
            yield "mask_ratio", f":{hint} (allowed 0.05-0.95)"
        yield from super().problems()
        yield from self._variants()

    def _variants(self) -> Iterator[tuple[str, str]]:
        """What the cheaper variants need of each other; see docs/variants.md."""
        if self.decoder != "cross" and self.predict < 1:
            yield (
                "predict",
                f": mask tokens of decoder {self.decoder} need each other. Use decoder cross, or"
                " predict 1",
            )
        if self.masks > 1 and self.mask == "grid":
            yield "masks", ": mask grid is the same every time. Use mask random or block"
        if self.progressive and self.init:
            yield (
                "progressive",
                ": the positions of other weights may be learned, and those have one size."
                " Leave init or progressive out",
            )
        full, before = pair(self.image_size), ((0, 0), 0.0)
        for size, until in [*self.stages, (full, 1.0)]:
            if until <= before[1] or min(size) <= min(before[0]) or max(size) <= max(before[0]):
                yield (
                    "progressive",
                    f": sizes must grow up to {shown(full)}, and shares between 0 and 1 with them",
                )
            before = size, until
            for side, patch in zip(size, self.patch or (1, 1), strict=True):
                if side % patch:
                    yield "progressive", f": {side} is not a multiple of patch {patch}"


def parse_stage(text: str) -> tuple[tuple[int, int], float]:
    """ "128:0.5" or "96x128:0.5" -> ((height, width), share of the run until which it lasts).

    Raises:
        ValueError: no such stage.
    """
    found = re.fullmatch(r"(\d+)(?:x(\d+))?:(0?\.\d+)", text)
    if not found:
        raise ValueError("should be SIZE:SHARE, such as 128:0.5 or 96x128:0.5, the share below 1")
    return (int(found[1]), int(found[2] or found[1])), float(found[3])


class QuickstartConfig(Settings):
    """Pretrain on scikit-learn's 1,797 handwritten digits, then k-NN, linear probe and
    reconstruction.
    """

    out: str = setting("runs/quickstart", "run folder", RUN, "free")
    seed: int = setting(0, "of all randomness", RUN, "fixed", ge=0, le=MOST_SEED)
    epochs: float | None = setting(
        None, "passes over the data; the recipe's by default", TRAINING, "free", gt=0
    )
    device: str = any_device()
