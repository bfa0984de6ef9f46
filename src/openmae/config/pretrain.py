"""Settings of `openmae pretrain` and `openmae quickstart`; defaults are the paper's (Table 8)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import field_validator

from openmae.config.base import MOST_SEED, Settings, setting

Size = int | tuple[int, int]
MODEL, TRAINING, DATA, RUN = "Model", "Training", "Data", "Run"


class PretrainConfig(Settings):
    """Pretrain a masked autoencoder on a folder of images. Labels are never needed."""

    one_of: ClassVar = (("epochs", "steps"),)
    parts_of: ClassVar = {"model": ("dim", "depth", "heads"), "channels": ("mean", "std")}

    data: str = setting(
        ..., "a folder of images, or the word digits", DATA, "allow", positional=True
    )
    out: str | None = setting(None, "run folder; runs/NAME by default", RUN, "free")

    model: str = setting("vit_base_patch16_224", "encoder, a timm name", MODEL, "fixed")
    dim: int | None = setting(None, "encoder width, instead of the model's", MODEL, "fixed", gt=0)
    depth: int | None = setting(
        None, "encoder blocks, instead of the model's", MODEL, "fixed", gt=0
    )
    heads: int | None = setting(None, "encoder heads, instead of the model's", MODEL, "fixed", gt=0)
    image_size: Size = setting(224, "pixels: one number, or height and width", MODEL, "fixed")
    patch_size: Size | None = setting(None, "pixels; the model's own by default", MODEL, "fixed")
    channels: int = setting(3, "channels of the images", MODEL, "fixed", ge=1)
    mask: Literal["random", "block", "grid"] = setting(
        "random", "how patches are chosen", MODEL, "allow"
    )
    mask_ratio: float = setting(0.75, "share of the patches to hide", MODEL, "allow")
    target: Literal["norm_pixels", "pixels"] = setting(
        "norm_pixels", "what is predicted", MODEL, "allow"
    )
    decoder_dim: int = setting(512, "decoder width", MODEL, "fixed", gt=0)
    decoder_depth: int = setting(8, "decoder blocks", MODEL, "fixed", ge=1)
    decoder_heads: int = setting(16, "decoder heads", MODEL, "fixed", gt=0)
    init: str | None = setting(
        None, "start from the weights of a run or encoder file", MODEL, "fixed"
    )

    epochs: float | None = setting(800, "passes over the data", TRAINING, "allow", gt=0)
    steps: int | None = setting(None, "optimiser steps, instead of epochs", TRAINING, "allow", gt=0)
    batch_size: int = setting(4096, "images of one optimiser step", TRAINING, "allow", gt=0)
    micro_batch: int | None = setting(
        None, "images at a time; accumulated to batch-size", TRAINING, "allow", gt=0
    )
    lr: float = setting(1.5e-4, "base learning rate, per 256 images", TRAINING, "allow", gt=0)
    min_lr: float = setting(
        0.0, "learning rate at the end, per 256 images", TRAINING, "allow", ge=0
    )
    warmup_epochs: float = setting(40, "linear warm-up from zero", TRAINING, "allow", ge=0)
    weight_decay: float = setting(
        0.05, "of AdamW; biases and norms are exempt", TRAINING, "allow", ge=0
    )
    betas: tuple[float, float] = setting((0.9, 0.95), "of AdamW", TRAINING, "allow")
    clip: float | None = setting(
        None, "limit of the gradient norm; the paper has none", TRAINING, "allow", gt=0
    )
    ema: float | None = setting(
        None, "keep averaged weights with this decay, 0.9999", TRAINING, "fixed", gt=0, lt=1
    )

    crop: float = setting(0.2, "smallest area of a random crop", DATA, "allow", gt=0, le=1)
    flip: bool = setting(True, "mirror half of the images", DATA, "allow")
    mean: tuple[float, ...] | None = setting(
        None, "of each channel in [0, 1]; measured by default", DATA, "fixed"
    )
    std: tuple[float, ...] | None = setting(
        None, "of each channel in [0, 1]; measured by default", DATA, "fixed"
    )
    val: str | None = setting(
        None, "held-out images: a folder, or a fraction such as 0.05", DATA, "allow"
    )
    eval_every: float | None = setting(
        None, "epochs between evaluations; ten a run by default", RUN, "free", gt=0
    )
    knn: bool = setting(False, "k-NN accuracy at each evaluation, from class folders", RUN, "free")
    bad_images: Literal["skip", "error", "zero"] = setting(
        "skip", "what an unreadable image does", DATA, "allow"
    )
    workers: int | None = setting(
        None, "loader processes; chosen by device", RUN, "free", ge=0, le=256
    )

    seed: int = setting(0, "of all randomness", RUN, "fixed", ge=0, le=MOST_SEED)
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps", RUN, "allow")
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "bf16 autocast on GPUs that have it", RUN, "allow"
    )
    compile: bool = setting(False, "compile each block", RUN, "allow")
    deterministic: bool = setting(False, "deterministic kernels on GPUs", RUN, "allow")
    save_every: int | None = setting(
        None, "steps between checkpoints; twenty a run by default", RUN, "free", gt=0
    )
    keep: int = setting(3, "checkpoints to keep", RUN, "free", ge=2)
    log_every: int = setting(10, "steps between reads of the loss", RUN, "free", ge=1)
    max_skips: int = setting(
        10, "steps in a row without a finite loss that end the run", RUN, "free", ge=1
    )
    track: Literal["tensorboard"] | None = setting(
        None, "also write TensorBoard files", RUN, "free"
    )
    time_limit: str | None = setting(
        None, "save and stop after this time, such as 90m or 1h30m", RUN, "free"
    )

    @field_validator("time_limit")
    @classmethod
    def _duration(cls, text: str | None) -> str | None:
        if text is not None:
            seconds(text)
        return text

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
        if min(self.patch or (1, 1)) < 1:
            yield "patch_size", ": must be at least 1"
        for size, patch in zip(pair(self.image_size), self.patch or (1, 1), strict=True):
            if size % patch or size < patch:
                low = max(size // patch, 1) * patch
                yield (
                    "image_size",
                    f" is not a multiple of patch {patch}. Nearest: {low} or {low + patch}",
                )
        if self.micro_batch and self.batch_size % self.micro_batch:
            small = range(1, min(math.isqrt(self.batch_size), 100_000) + 1)
            fits = {d for m in small if self.batch_size % m == 0 for d in (m, self.batch_size // m)}
            near = sorted(sorted(fits, key=lambda m: abs(m - (self.micro_batch or 1)))[:3])
            yield (
                "micro_batch",
                f" does not divide batch-size {self.batch_size}. Near: {', '.join(map(str, near))}",
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                yield name, f": {len(values)} values for {self.channels} channels"
        if self.std is not None and min(self.std) <= 0:
            yield "std", ": must be greater than 0"
        if not all(0 <= beta < 1 for beta in self.betas):
            yield "betas", ": each must be at least 0 and less than 1"
        if self.epochs is None and self.steps is None:
            yield "epochs", ": give epochs or steps"


class QuickstartConfig(Settings):
    """Pretrain on scikit-learn's 1,797 handwritten digits, then k-NN, linear probe and
    reconstruction.
    """

    out: str = setting("runs/quickstart", "run folder", RUN, "free")
    seed: int = setting(0, "of all randomness", RUN, "fixed", ge=0, le=MOST_SEED)
    epochs: float | None = setting(
        None, "passes over the data; the recipe's by default", TRAINING, "free", gt=0
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps", RUN, "free")


def pair(size: Size) -> tuple[int, int]:
    """One number or two -> (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def seconds(text: str) -> float:
    """The seconds of "45s", "90m", "1h30m" or "2d".

    Raises:
        ValueError: no such duration.
    """
    parts = re.fullmatch(
        r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.replace(" ", "").lower()
    )
    if not parts or not any(parts.groups()):
        raise ValueError("should be a time with its unit, such as 45s, 90m or 1h30m")
    return sum(
        int(n or 0) * unit for n, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True)
    )
