"""Settings that every training command shares: length, optimiser, data policy, run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from openmae.config.base import MOST_SEED, Settings, setting
from openmae.errors import UsageError

Size = int | tuple[int, int]
MODEL, TRAINING, DATA, RUN = "Model", "Training", "Data", "Run"


class TrainingConfig(Settings):
    """What the one training loop is told, whatever it trains. Rates are per 256 images."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("epochs", "steps"),)

    out: str | None = setting(None, "run folder; runs/NAME by default", RUN, "free")
    epochs: float | None = setting(800, "passes over the data", TRAINING, "allow", gt=0)
    steps: int | None = setting(None, "optimiser steps, instead of epochs", TRAINING, "allow", gt=0)
    batch_size: int = setting(
        4096, "images of one optimiser step; auto: micro-batch auto", TRAINING, "allow", gt=0
    )
    micro_batch: Annotated[int, Field(gt=0)] | Literal["auto"] | None = setting(
        None, "images at a time, accumulated to batch-size; auto: what fits", TRAINING, "allow"
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
    flip: bool = setting(True, "mirror half of the images", DATA, "allow")
    sampling: str = setting(
        "uniform", "uniform, balanced (classes alike), or a CSV with path and weight", DATA, "allow"
    )
    repeats: int = setting(
        1, "crops in a row of each image that is decoded; epochs count crops", DATA, "allow", ge=1
    )
    bad_images: Literal["skip", "error", "zero"] = setting(
        "skip", "what an unreadable image does", DATA, "allow"
    )
    eval_every: float | None = setting(
        None, "epochs between evaluations; ten a run by default", RUN, "free", gt=0
    )
    workers: int | None = setting(
        None, "loader processes; chosen by device", RUN, "free", ge=0, le=256
    )
    seed: int = setting(0, "of all randomness", RUN, "fixed", ge=0, le=MOST_SEED)
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps", RUN, "allow")
    gpus: int | None = setting(
        None, "ranks on this machine; with --device cpu as many processes", RUN, "free", ge=1
    )
    restarts: int = setting(
        3, "of all ranks after one was lost, without a newer checkpoint", RUN, "free", ge=0
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "bf16 autocast on GPUs that have it", RUN, "allow"
    )
    attention: Literal["auto", "sdpa", "eager", "flash", "cudnn", "efficient", "math"] = setting(
        "auto", "how attention is computed; auto: the fastest for each length", RUN, "allow"
    )
    products: Literal["auto", "torch", "onednn"] = setting(
        "auto", "how linear layers are multiplied; auto: onednn on AMD CPUs", RUN, "allow"
    )
    grad_checkpointing: bool = setting(
        False, "run each block again in the backward pass: less memory, more time", RUN, "allow"
    )
    compile: bool = setting(False, "compile each block", RUN, "allow")
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"] = setting(
        "auto", "how ranks share the model; auto: fsdp above 1.5 B parameters", RUN, "allow"
    )
    reshard: bool = setting(
        True, "fsdp: free a block's weights after its forward pass", RUN, "allow"
    )
    compress_gradients: bool = setting(False, "ddp: gradients travel as bfloat16", RUN, "allow")
    rank_timeout: str = setting(
        "10m", "without progress for so long, the rank that hangs is named", RUN, "free"
    )
    deterministic: bool = setting(False, "deterministic kernels on GPUs", RUN, "allow")
    save_every: int | None = setting(
        None, "steps between checkpoints; twenty a run by default", RUN, "free", gt=0
    )
    keep: int = setting(3, "checkpoints to keep", RUN, "free", ge=2)
    log_every: int = setting(10, "steps between reads of the loss", RUN, "free", ge=1)
    save_in_background: bool | None = setting(
        None, "save while training goes on; by default on a GPU", RUN, "free"
    )
    on_save_error: Literal["continue", "stop"] = setting(
        "continue", "after a save that failed; the third in a row ends the run", RUN, "free"
    )
    max_skips: int = setting(
        10, "steps in a row without a finite loss before the run goes back", RUN, "free", ge=1
    )
    track: Literal["tensorboard"] | None = setting(
        None, "also write TensorBoard files", RUN, "free"
    )
    time_limit: str | None = setting(
        None, "save and stop after this time, such as 90m or 1h30m", RUN, "free"
    )

    @field_validator("time_limit", "rank_timeout")
    @classmethod
    def _duration(cls, text: str | None) -> str | None:
        if text is not None:
            seconds(text)
        return text

    @classmethod
    def reworded(
        cls, values: Mapping[str, Any], spell: Callable[[str], str], typed: bool
    ) -> dict[str, Any]:
        """--batch-size auto is about memory: the batch of the recipe stays, in parts that fit."""
        words = dict(values)
        if str(words.get("batch_size")).lower() != "auto":
            return words
        parts = str(words.get("micro_batch", "auto"))
        if parts.lower() != "auto":
            both = f"{spell('batch_size')} auto and {spell('micro_batch')} {parts}"
            raise UsageError(f"{both}: auto chooses the micro-batch. Give one of them")
        del words["batch_size"]
        return words | {"micro_batch": "auto"}

    @property
    def fixed_micro_batch(self) -> int | None:
        """Images at a time, where a number was given."""
        return self.micro_batch if isinstance(self.micro_batch, int) else None

    def problems(self) -> Iterator[tuple[str, str]]:
        micro = self.fixed_micro_batch
        if micro and self.batch_size % micro:
            small = range(1, min(math.isqrt(self.batch_size), 100_000) + 1)
            fits = {d for m in small if self.batch_size % m == 0 for d in (m, self.batch_size // m)}
            near = sorted(sorted(fits, key=lambda m: abs(m - micro))[:3])
            yield (
                "micro_batch",
                f" does not divide batch-size {self.batch_size}. Near: {', '.join(map(str, near))}",
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            yield "betas", ": each must be at least 0 and less than 1"
        if self.epochs is None and self.steps is None:
            yield "epochs", ": give epochs or steps"


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


def parse_range(text: str) -> tuple[float, float]:
    """ "0-65535", "0:1" or "-30:5" -> (low, high).

    Raises:
        ValueError: no such range.
    """
    for mark in (":", "-"):
        at = text.find(mark, 1)
        while at > 0:
            try:
                low, high = float(text[:at]), float(text[at + 1 :])
            except ValueError:
                at = text.find(mark, at + 1)
                continue
            if math.isfinite(low) and math.isfinite(high) and low < high:
                return low, high
            break
    raise ValueError("should be auto, or LOW:HIGH such as 0:65535, the lower one first")


def _range_or_auto(text: str) -> str:
    if text != "auto":
        parse_range(text)
    return text


ValueRange = Annotated[str, AfterValidator(_range_or_auto)]
"""Of 16-bit and float images: LOW:HIGH, or auto."""
