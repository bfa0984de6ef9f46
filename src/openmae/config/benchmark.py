"""Settings of `openmae benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from openmae.config.base import setting
from openmae.config.fields import any_device
from openmae.config.maskoptions import DecoderName, MaskName, MaskOptions
from openmae.config.pretrain import PretrainConfig
from openmae.config.targetoptions import TargetName, TargetOptions
from openmae.config.training import DATA, MODEL, RUN, TRAINING, Size, ValueRange, pair
from openmae.errors import UsageError

_ARCHITECTURE = (
    "model", "dim", "depth", "heads", "image_size", "patch_size", "channels", "mask", "mask_ratio",
    "target", "decoder_dim", "decoder_depth", "decoder_heads", "decoder", "decoder_fusion",
    "predict", "masks", "mask_unit", "mask_ratio_end", "mask_tokens", "registers", "uniformity",
    "target_args",
)  # fmt: skip
_STEP = (
    "precision", "compile", "attention", "products", "crop", "flip", "augment", "bands",
    "value_range",
)  # fmt: skip


class BenchmarkConfig(TargetOptions, MaskOptions):
    """How fast this machine pretrains: time, memory, share of its peak, the loader beside it."""

    data: str | None = setting(
        None, "images, to measure the loader too; the step takes random ones", DATA, "free",
        positional=True,
    )  # fmt: skip
    out: str | None = setting(None, "also write the JSON to this file", RUN, "free", short="-o")

    model: str = setting("vit_base_patch16_224", "encoder, a timm name", MODEL, "free")
    dim: int | None = setting(None, "encoder width, instead of the model's", MODEL, "free", gt=0)
    depth: int | None = setting(None, "encoder blocks, instead of the model's", MODEL, "free", gt=0)
    heads: int | None = setting(None, "encoder heads, instead of the model's", MODEL, "free", gt=0)
    image_size: Size = setting(224, "pixels: one number, or height and width", MODEL, "free")
    patch_size: Size | None = setting(None, "pixels; the model's own by default", MODEL, "free")
    channels: int = setting(3, "channels of the images", MODEL, "free", ge=1)
    mask: MaskName = setting("random", "how patches are chosen", MODEL, "free")
    mask_ratio: float = setting(0.75, "share of the patches to hide", MODEL, "free")
    target: TargetName = setting("norm_pixels", "what is predicted", MODEL, "free")
    decoder_dim: int = setting(512, "decoder width", MODEL, "free", gt=0)
    decoder_depth: int = setting(8, "decoder blocks", MODEL, "free", ge=1)
    decoder_heads: int = setting(16, "decoder heads", MODEL, "free", gt=0)

    decoder: DecoderName = setting(
        "self", "cross: mask tokens only read visible ones", MODEL, "free"
    )
    decoder_fusion: bool = setting(
        False, "the decoder reads learned sums of all encoder blocks", MODEL, "free"
    )
    predict: float = setting(
        1.0, "cross decoder: share of the hidden patches to predict", MODEL, "free", gt=0, le=1
    )
    masks: int = setting(1, "masks of each image in a step", MODEL, "free", ge=1)

    batch_size: int | None = setting(
        None, "images at a time; auto or none: doubled until it brings no more", TRAINING, "free",
        gt=0,
    )  # fmt: skip
    steps: int = setting(10, "steps of a timed window, at most", RUN, "free", ge=1, le=10_000)
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "bf16 autocast on GPUs that have it", RUN, "free"
    )
    compile: bool = setting(False, "compile each block", RUN, "free")
    attention: Literal["auto", "sdpa", "eager", "flash", "cudnn", "efficient", "math"] = setting(
        "auto", "how attention is computed; auto: the fastest for each length", RUN, "free"
    )
    products: Literal["auto", "torch", "onednn"] = setting(
        "auto", "how linear layers are multiplied; auto: onednn on AMD CPUs", RUN, "free"
    )
    device: str = any_device()
    workers: tuple[int, ...] = setting(
        (), "loader processes to try, such as 1 4 8; chosen by cores", RUN, "free"
    )
    crop: float = setting(0.2, "smallest area of a random crop", DATA, "free", gt=0, le=1)
    flip: bool = setting(True, "mirror half of the images", DATA, "free")
    bands: tuple[int, ...] = setting(
        (), "channels of a file to read, counted from 1, in this order", DATA, "free"
    )
    value_range: ValueRange = setting(
        "auto", "of 16-bit and float images, such as 0:65535; auto looks", DATA, "free"
    )

    @classmethod
    def reworded(
        cls, values: Mapping[str, Any], spell: Callable[[str], str], typed: bool
    ) -> dict[str, Any]:
        """Of a recipe of pretrain, what decides the step; its batch is made of parts anyway."""
        words = dict(values)
        if not typed:
            if words.get("method", "mae") != "mae":
                raise UsageError(
                    f"the recipe is of {words['method']}, and benchmark measures steps of mae. Give"
                    " a recipe of mae"
                )
            return {k: v for k, v in words.items() if k in (*_ARCHITECTURE, *_STEP)}
        if str(words.get("batch_size")).lower() == "auto":
            words["batch_size"] = None
        if words.get("bands") and "channels" not in words:  # as of pretrain: bands are channels
            bands = words["bands"]
            words["channels"] = len(bands) if isinstance(bands, list | tuple) else 1
        return words

    def pretraining(self) -> PretrainConfig:
        """The settings of the run whose step is measured."""
        given = {name: getattr(self, name) for name in (*_ARCHITECTURE, *_STEP, "device")}
        given["data"] = self.data or "random"
        return PretrainConfig.model_validate(given | {"warmup_epochs": 0, "epochs": 1})

    def problems(self) -> Iterator[tuple[str, str]]:
        for name, problem in self.pretraining().problems():
            if name in type(self).model_fields:
                yield name, problem
        if self.workers and not all(0 <= n <= 256 for n in self.workers):
            yield "workers", ": each must be from 0 to 256"
        if min(pair(self.image_size)) < 1:
            yield "image_size", ": must be at least 1"
