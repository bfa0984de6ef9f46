"""Settings of `openmae finetune`, `evaluate` and `predict`; defaults are the paper's (Table 9)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from openmae.config.base import Settings, setting
from openmae.config.fields import any_device, from_random_weights, loaders, ranks, trained_from
from openmae.config.training import DATA, MODEL, RUN, TRAINING, Size, TrainingConfig

EVALUATION = "Evaluation"


class FinetuneConfig(TrainingConfig):
    """Train a classifier on a pretrained encoder: the whole of it, its last blocks, or the head."""

    model: str = trained_from()
    data: str = setting(
        ..., "a folder with one folder a class, or the word digits", DATA, "allow", positional=True
    )
    out: str | None = setting(
        None, "run folder; finetune-DATA inside the run by default", RUN, "free"
    )
    random_weights: bool = from_random_weights()
    baseline: bool = setting(
        False, "then also train the same recipe from random weights, and report both", RUN, "free"
    )
    pool: Literal["mean", "cls"] = setting(
        "mean", "mean of patch tokens with a fresh fc_norm, or class token", MODEL, "fixed"
    )
    image_size: Size | None = setting(
        None, "pixels; the encoder's own by default, else positions are resized", MODEL, "fixed"
    )
    blocks: float | None = setting(
        None, "train only the last blocks; 0.5: one MLP, 0: the head", MODEL, "fixed", ge=0
    )

    labels: str | None = setting(
        None, "CSV with path and label, instead of class folders", DATA, "allow"
    )
    multi_label: bool = setting(False, "several labels an image, as a;b in the CSV", DATA, "fixed")
    test_fraction: float = setting(
        0.2, "tested share, by hash of the path, without test folder", DATA, "allow", gt=0, lt=1
    )
    fraction: str | None = setting(
        None, "train on a share (0.1) or a number (10-per-class) of the images", DATA, "fixed"
    )
    class_weights: Literal["none", "balanced"] = setting(
        "none", "weigh classes against imbalance", DATA, "allow"
    )
    crop: float = setting(0.08, "smallest area of a random crop", DATA, "allow", gt=0, le=1)
    randaug: str | None = setting(
        "rand-m9-mstd0.5-inc1", "RandAugment as timm writes it, or none", DATA, "allow"
    )
    erasing: float = setting(0.0, "probability of random erasing", DATA, "allow", ge=0, le=1)
    mixup: float = setting(0.8, "alpha of Mixup, 0 for none", DATA, "allow", ge=0)
    cutmix: float = setting(1.0, "alpha of CutMix, 0 for none", DATA, "allow", ge=0)
    mix_prob: float = setting(1.0, "share of the batches that are mixed", DATA, "allow", ge=0, le=1)
    smoothing: float = setting(0.1, "label smoothing", DATA, "allow", ge=0, lt=1)

    crop_pct: float | None = setting(
        None,
        "share of the image that is tested; 224/256 for 97 to 224 px, else 1",
        DATA,
        "allow",
        gt=0.1,
        le=1,
    )

    epochs: float | None = setting(100, "passes over the data", TRAINING, "allow", gt=0)
    batch_size: int = setting(
        1024, "images of one optimiser step; auto: micro-batch auto", TRAINING, "allow", gt=0
    )
    lr: float = setting(1e-3, "base learning rate, per 256 images", TRAINING, "allow", gt=0)
    warmup_epochs: float = setting(5, "linear warm-up from zero", TRAINING, "allow", ge=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "of AdamW", TRAINING, "allow")
    layer_decay: float = setting(
        0.75, "learning rate of a block, relative to the one above", TRAINING, "allow", gt=0, le=1
    )
    drop_path: float = setting(
        0.1, "stochastic depth of the last block", TRAINING, "allow", ge=0, lt=1
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.fraction is not None:
            yield from _fraction_problems(self.fraction)
        if self.multi_label and self.labels is None:
            yield "multi_label", ": several labels an image need --labels FILE.csv"
        if self.multi_label and (self.fraction or "").endswith("-per-class"):
            yield "fraction", ": images of several labels have no one class. Give a share, 0.1"
        if self.multi_label and self.mixes:
            yield "multi_label", ": cannot be mixed. Add --mixup 0 --cutmix 0"
        if self.multi_label and self.smoothing:
            yield "multi_label", ": has no label smoothing. Add --smoothing 0"
        at_a_time = self.fixed_micro_batch or self.batch_size
        if self.mixes and at_a_time % 2:
            name = "micro_batch" if self.fixed_micro_batch else "batch_size"
            yield name, ": Mixup and CutMix need an even number. Or --mixup 0 --cutmix 0"
        if self.randaug is not None and not re.fullmatch(
            r"rand(-(m|n|w|p|mstd|mmax|inc|t)[\d.]+)+", self.randaug
        ):
            yield "randaug", ": give it as timm does, rand-m9-mstd0.5-inc1, or none"
        if self.blocks is not None and self.blocks * 2 % 1:
            yield "blocks", ": give whole blocks, or a half (0.5, 1.5 ...)"
        if self.baseline and self.random_weights:
            yield "baseline", " is what --random-weights trains already: give one of them"
        yield from super().problems()

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_prob > 0


def _fraction_problems(text: str) -> Iterator[tuple[str, str]]:
    try:
        share, count = parse_fraction(text)
    except ValueError:
        yield "fraction", ": give a share such as 0.1, or 10-per-class"
        return
    if (share is not None and not 0 < share <= 1) or (count is not None and count < 1):
        yield "fraction", ": must be greater than 0, a share at most 1"


def parse_fraction(text: str) -> tuple[float | None, int | None]:
    """ "0.1" -> (0.1, None); "10-per-class" -> (None, 10).

    Raises:
        ValueError: neither.
    """
    if text.endswith("-per-class"):
        return None, int(text.removesuffix("-per-class"))
    return float(text), None


class EvaluateConfig(Settings):
    """Score a fine-tuned model on labelled images, robustness sets included."""

    model: str = setting(
        ..., "a fine-tuned run folder or checkpoint", MODEL, "free", positional=True
    )
    data: str = setting(
        ..., "a folder of class folders, or the word digits", DATA, "free", positional=True
    )
    out: str | None = setting(None, "folder of the result; inside the run by default", RUN, "free")
    layout: Literal["auto", "folder", "imagenet-c"] = setting(
        "auto", "imagenet-c: CORRUPTION/SEVERITY/CLASS below the folder", DATA, "free"
    )
    labels: str | None = setting(
        None, "CSV with path and label, instead of class folders", DATA, "free"
    )
    class_names: str | None = setting(
        None, "file with one class folder a line, in the order of the outputs", DATA, "free"
    )
    crop_pct: float | None = setting(
        None,
        "share of the image that is tested; 224/256 for 97 to 224 px, else 1",
        EVALUATION,
        "free",
        gt=0.1,
        le=1,
    )
    batch_size: int = setting(256, "images at a time", RUN, "free", gt=0)
    workers: int | None = loaders()
    device: str = any_device()
    gpus: int | None = ranks()


class PredictConfig(Settings):
    """Classes of images, as a table."""

    model: str = setting(
        ..., "a fine-tuned run folder or checkpoint", MODEL, "free", positional=True
    )
    data: str = setting(
        ..., "a folder of images, or the word digits", DATA, "free", positional=True
    )
    out: str = setting(..., "output: .csv", RUN, "free", short="-o")
    top: int = setting(1, "classes to name for each image", EVALUATION, "free", gt=0)
    probabilities: bool = setting(False, "a column for each class", EVALUATION, "free")
    threshold: float = setting(
        0.5, "of a multi-label model's classes", EVALUATION, "free", gt=0, lt=1
    )
    crop_pct: float | None = setting(
        None,
        "share of the image that is tested; 224/256 for 97 to 224 px, else 1",
        EVALUATION,
        "free",
        gt=0.1,
        le=1,
    )
    batch_size: int = setting(256, "images at a time", RUN, "free", gt=0)
    workers: int | None = loaders()
    device: str = any_device()
    gpus: int | None = ranks()

    def problems(self) -> Iterator[tuple[str, str]]:
        if Path(self.out).suffix != ".csv":
            yield "out", ": the name must end in .csv"


def crop_share(crop_pct: float | None, image_size: tuple[int, int]) -> float:
    """The tested share of an image: as given, or 224/256 up to 224 px as published, and everything
    above and for small images, where a border would be a loss.
    """
    if crop_pct is not None:
        return crop_pct
    return 224 / 256 if 96 < max(image_size) <= 224 else 1.0
