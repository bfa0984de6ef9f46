"""Settings of masked autoencoders beyond the paper's method (docs/variants.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from openmae.config.base import Settings, setting
from openmae.config.training import DATA, MODEL

MaskName = Literal["random", "block", "grid", "multiblock", "unit"]
DecoderName = Literal["self", "cross", "linear", "mlp"]


class MaskOptions(Settings):
    """Off by default, all of them."""

    mask_unit: int = setting(
        4, "mask unit: side of what is hidden together, in patches", MODEL, "allow", ge=1
    )
    mask_ratio_end: float | None = setting(
        None, "the ratio goes linearly from mask-ratio to this", MODEL, "allow", ge=0.05, le=0.95
    )
    mask_tokens: Literal["decoder", "encoder"] = setting(
        "decoder", "encoder: it sees hidden patches as a token (Table 1c)", MODEL, "fixed"
    )
    registers: int = setting(
        0, "further learned tokens beside the class token", MODEL, "fixed", ge=0
    )
    uniformity: float = setting(
        0.0, "weight of the uniformity term (U-MAE: 0.01)", MODEL, "allow", ge=0
    )
    augment: Literal["none", "fixed", "crop", "jitter"] = setting(
        "crop", "centre, crop of fixed or random size, and colours (Table 1e)", DATA, "allow"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _together(self)
        yield from super().problems()


def _together(config: Settings) -> Iterator[tuple[str, str]]:
    """What these need of others."""
    decoder, mask = getattr(config, "decoder", "self"), getattr(config, "mask", "random")
    inside = getattr(config, "mask_tokens", "decoder") == "encoder"
    if decoder in ("linear", "mlp") and not inside:
        yield "decoder", " reads one token a patch. Use mask-tokens encoder, or decoder self"
    if inside and decoder == "cross":
        yield "mask_tokens", ": decoder cross has its own. Use decoder self, linear or mlp"
    if inside and getattr(config, "decoder_fusion", False):
        yield "decoder_fusion", " needs mask-tokens decoder. Leave one of them out"
    if mask == "grid" and getattr(config, "mask_ratio_end", None) is not None:
        yield "mask_ratio_end", ": mask grid has one ratio. Use another mask"
    parts, batch = getattr(config, "micro_batch", None), getattr(config, "batch_size", None)
    if getattr(config, "uniformity", 0) and parts not in (None, batch):
        yield "uniformity", " couples the images of a batch. Leave micro-batch out"
