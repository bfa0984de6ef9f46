"""Settings of `openmae detect` and of what is done with its runs; defaults are ViTDet's of ViT-B on
COCO (Table 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from openmae.config.base import Settings, setting
from openmae.config.fields import any_device, from_random_weights, loaders, ranks, trained_from
from openmae.config.training import DATA, MODEL, RUN, TRAINING, Size, TrainingConfig

EVALUATION = "Evaluation"


class DetectConfig(TrainingConfig):
    """Train a detector on a pretrained encoder: boxes, and masks where the data have them."""

    model: str = trained_from()
    data: str = setting(
        ...,
        "a COCO .json, or a folder of COCO, Pascal VOC, YOLO or instance masks",
        DATA,
        "allow",
        positional=True,
    )
    out: str | None = setting(
        None, "run folder; detect-DATA inside the run by default", RUN, "free"
    )
    random_weights: bool = from_random_weights()
    frozen: bool = setting(False, "train all but the encoder", MODEL, "fixed")
    baseline: bool = setting(
        False, "then also from random weights, and with a frozen encoder; report all", RUN, "free"
    )
    masks: bool | None = setting(
        None, "find masks as well as boxes; by default where the data have them", MODEL, "fixed"
    )
    image_size: Size | None = setting(
        None, "pixels that images are fitted into; the encoder's own by default", MODEL, "fixed"
    )
    window: int = setting(14, "side of a window of attention, in patches", MODEL, "fixed", ge=1)
    global_blocks: tuple[int, ...] | None = setting(
        None, "blocks that attend globally, from 0; the last of each quarter", MODEL, "fixed"
    )
    relative: bool = setting(True, "learned relative positions", MODEL, "fixed")
    pyramid_dim: int = setting(
        256, "channels of the pyramid and of the heads", MODEL, "fixed", ge=8, le=4096
    )
    regions: int = setting(
        512, "regions of an image that the loss looks at", TRAINING, "fixed", ge=4, le=8192
    )
    detections: int = setting(
        100, "of an image, at most; the scores count a hundred", MODEL, "fixed", ge=1, le=1000
    )

    images: str | None = setting(
        None, "folder of the images of a COCO file or of VOC; found by default", DATA, "allow"
    )
    val: str | None = setting(
        None, "what to validate on, in the same formats; by default held out", DATA, "allow"
    )
    test_fraction: float = setting(
        0.2, "held-out share, by hash of the path, without --val", DATA, "allow", gt=0, lt=1
    )
    jitter: tuple[float, float] = setting(
        (0.1, 2.0), "smallest and largest random scale of an image", DATA, "allow"
    )

    epochs: float | None = setting(100, "passes over the data", TRAINING, "allow", gt=0)
    batch_size: int = setting(
        64, "images of one optimiser step; auto: micro-batch auto", TRAINING, "allow", gt=0
    )
    lr: float = setting(
        4e-4, "base learning rate, per 256 images (1e-4 at 64)", TRAINING, "allow", gt=0
    )
    warmup_epochs: float = setting(0.135, "linear warm-up from zero", TRAINING, "allow", ge=0)
    weight_decay: float = setting(
        0.1, "of AdamW; biases and norms are exempt", TRAINING, "allow", ge=0
    )
    betas: tuple[float, float] = setting((0.9, 0.999), "of AdamW", TRAINING, "allow")
    schedule: Literal["step", "cosine", "poly"] = setting(
        "step", "step: a tenth from 8/9 of the run on, and from 26/27 again", TRAINING, "allow"
    )
    layer_decay: float = setting(
        0.7, "learning rate of a block, relative to the one above", TRAINING, "allow", gt=0, le=1
    )
    drop_path: float = setting(
        0.1, "stochastic depth of the last block", TRAINING, "allow", ge=0, lt=1
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if not 0.01 <= self.jitter[0] <= self.jitter[1] <= 100:
            yield "jitter", ": give the smaller one first, from 0.01 to 100, such as 0.1 2"
        if self.sampling == "balanced":
            yield "sampling", ": images with objects have no class. Give a CSV, or uniform"
        if self.baseline and (self.random_weights or self.frozen):
            yield "baseline", " adds --random-weights and --frozen by itself: drop them"
        yield from super().problems()


class _Tested(Settings):
    """What every use of a finished detector is told."""

    model: str = setting(
        ..., "a run folder of detect, or its checkpoint", MODEL, "free", positional=True
    )
    batch_size: int = setting(8, "images at a time", RUN, "free", gt=0)
    workers: int | None = loaders()
    device: str = any_device()
    gpus: int | None = ranks()


class DetectEvaluateConfig(_Tested):
    """Score a detector on images with objects: AP of boxes and masks, as COCO defines it."""

    data: str = setting(
        ..., "objects, in any format that detect reads", DATA, "free", positional=True
    )
    images: str | None = setting(
        None, "folder of the images of a COCO file or of VOC; found by default", DATA, "free"
    )
    part: Literal["val", "train"] = setting(
        "val", "which file of a COCO folder with several", DATA, "free"
    )
    out: str | None = setting(None, "folder of the result; inside the run by default", RUN, "free")


class DetectPredictConfig(_Tested):
    """Find objects in images: COCO results, and pictures of them."""

    data: str = setting(..., "a folder of images", DATA, "free", positional=True)
    out: str = setting(..., "folder of the results", RUN, "free", short="-o")
    threshold: float = setting(
        0.5, "least score of an object that is drawn", EVALUATION, "free", ge=0, le=1
    )
    pictures: Annotated[int, Field(ge=0)] = setting(
        100, "how many images to draw, the first ones", EVALUATION, "free"
    )
