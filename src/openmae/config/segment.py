"""Settings of `openmae segment` and of what is done with its runs; defaults are the published
UPerNet recipe of ViT-B on ADE20K (Tables 5 and 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from openmae.config.base import Settings, setting
from openmae.config.fields import any_device, from_random_weights, ranks, trained_from
from openmae.config.training import DATA, MODEL, RUN, TRAINING, Size, TrainingConfig

EVALUATION = "Evaluation"
_LARGEST = 65_535


class SegmentConfig(TrainingConfig):
    """Train a segmenter on a pretrained encoder: images beside masks give a class to each pixel."""

    model: str = trained_from()
    data: str = setting(
        ...,
        "a folder with images/ and masks/, ADE20K's, or train/ and trainannot/",
        DATA,
        "allow",
        positional=True,
    )
    out: str | None = setting(
        None, "run folder; segment-DATA inside the run by default", RUN, "free"
    )
    random_weights: bool = from_random_weights()
    frozen: bool = setting(False, "train the head alone", MODEL, "fixed")
    baseline: bool = setting(
        False, "then also from random weights, and with a frozen encoder; report all", RUN, "free"
    )
    head: Literal["upernet", "dpt", "linear"] = setting(
        "upernet", "UPerNet, or a light head: DPT's, or a linear layer", MODEL, "fixed"
    )
    head_dim: int = setting(512, "width of the head", MODEL, "fixed", ge=8, le=4096)
    auxiliary: float = setting(
        0.4, "weight of UPerNet's auxiliary loss, 0 for none", TRAINING, "fixed", ge=0
    )
    image_size: Size | None = setting(
        None, "pixels of a training crop and of a test window; the encoder's own", MODEL, "fixed"
    )

    masks: str | None = setting(
        None, "folder of masks named as the images; found beside them by default", DATA, "allow"
    )
    classes: str | None = setting(
        None, "names of the classes: a file with one a line, or a,b,c", DATA, "fixed"
    )
    palette: str | None = setting(
        None, "file with a line a class, R G B NAME, for masks in colour", DATA, "fixed"
    )
    ignore_label: Annotated[int, Field(ge=0, le=_LARGEST)] | Literal["auto"] | None = setting(
        "auto", "value of pixels without a label, or none; auto: 255, in ADE20K 0", DATA, "fixed"
    )
    test_fraction: float = setting(
        0.2, "tested share, by hash of the path, without test folder", DATA, "allow", gt=0, lt=1
    )
    short_side: Annotated[int, Field(ge=8)] | None = setting(
        None, "resize images to this shorter side first; as they are by default", DATA, "fixed"
    )
    scale: tuple[float, float] = setting(
        (0.5, 2.0), "smallest and largest random scale of a training image", DATA, "allow"
    )
    most: float = setting(
        0.75, "a crop with more of one class is drawn again", DATA, "allow", gt=0, le=1
    )
    colours: bool = setting(
        True, "change brightness, contrast, saturation and hue (8-bit RGB)", DATA, "allow"
    )

    stride: Annotated[int, Field(ge=1)] | None = setting(
        None, "pixels between test windows; two thirds of a window", EVALUATION, "allow"
    )

    epochs: float | None = setting(127, "passes over the data", TRAINING, "allow", gt=0)
    batch_size: int = setting(
        16, "images of one optimiser step; auto: micro-batch auto", TRAINING, "allow", gt=0
    )
    lr: float = setting(
        1.6e-3, "base learning rate, per 256 images (1e-4 at 16)", TRAINING, "allow", gt=0
    )
    warmup_epochs: float = setting(1.2, "linear warm-up from zero", TRAINING, "allow", ge=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "of AdamW", TRAINING, "allow")
    schedule: Literal["poly", "cosine"] = setting(
        "poly", "after the warm-up: a straight line (power 1), or half a cosine", TRAINING, "allow"
    )
    layer_decay: float = setting(
        0.65, "learning rate of a block, relative to the one above", TRAINING, "allow", gt=0, le=1
    )
    drop_path: float = setting(
        0.1, "stochastic depth of the last block", TRAINING, "allow", ge=0, lt=1
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if not 0.01 <= self.scale[0] <= self.scale[1] <= 100:
            yield "scale", ": give the smaller one first, from 0.01 to 100, such as 0.5 2"
        if self.palette is not None and self.classes is not None:
            yield "classes", ": a palette names the classes itself. Give one of them"
        if self.sampling == "balanced":
            yield "sampling", ": images with masks have no class. Give a CSV, or uniform"
        if self.baseline and self.random_weights:
            yield "baseline", " is what --random-weights trains already: give one of them"
        yield from super().problems()


class _Tested(Settings):
    """How images are tested, whatever is done with the result."""

    stride: Annotated[int, Field(ge=1)] | None = setting(
        None, "pixels between windows; two thirds of a window", EVALUATION, "free"
    )
    scales: tuple[float, ...] = setting(
        (1.0,), "sizes that are tested and averaged, 0.5 0.75 1 1.25", EVALUATION, "free"
    )
    flip: bool = setting(False, "also test mirrored images, and average", EVALUATION, "free")
    batch_size: int = setting(8, "windows at a time", RUN, "free", gt=0)
    device: str = any_device()
    gpus: int | None = ranks()

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.scales or not all(0.05 <= s <= 20 for s in self.scales):
            yield "scales", ": give factors from 0.05 to 20, such as 0.75 1 1.25"


class SegmentEvaluateConfig(_Tested):
    """Score a segmenter on images with masks: mIoU, pixel accuracy, classes and confusion."""

    model: str = setting(..., "a run folder of segment", MODEL, "free", positional=True)
    data: str = setting(
        ..., "a folder of images and masks, as for segment", DATA, "free", positional=True
    )
    out: str | None = setting(None, "folder of the result; inside the run by default", RUN, "free")
    masks: str | None = setting(
        None, "folder of masks named as the images; found beside them by default", DATA, "free"
    )


class SegmentPredictConfig(_Tested):
    """Masks of images, with the values that the training masks have, and pictures of them."""

    model: str = setting(..., "a run folder of segment", MODEL, "free", positional=True)
    data: str = setting(..., "a folder of images", DATA, "free", positional=True)
    out: str = setting(..., "folder for masks/ and overlays/", RUN, "free", short="-o")
    overlays: bool = setting(True, "also write pictures with the classes over them", RUN, "free")
    opacity: float = setting(0.5, "of the classes in pictures", EVALUATION, "free", ge=0, le=1)
