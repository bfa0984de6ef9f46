"""A segmenter at test time: classes of whole images, scores, and the report of every task.

K classes, H and W height and width of an image in pixels.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from openmae.data.crops import base_scale
from openmae.data.maskfile import Labels
from openmae.data.masks import MaskSource
from openmae.data.transforms import to_tensor
from openmae.data.values import Pixels
from openmae.engine.device import autocast
from openmae.engine.distributed import World
from openmae.engine.log import say, warn
from openmae.errors import DataError
from openmae.methods.segment import Segmenter
from openmae.models.sliding import averaged
from openmae.report.confusion import draw_confusion
from openmae.report.display import visible
from openmae.report.maskpictures import SheetRow, sheet, shown_colours
from openmae.tasks.classification import write_rows

PICTURES = 4  # of the report


@dataclass(frozen=True)
class Test:
    """How images are tested: pixels between windows (two thirds of one by default), sizes that are
    averaged, mirrored or not, windows at a time.
    """

    __test__ = False  # pytest

    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    at_a_time: int = 8
    precision: str = "fp32"


@dataclass
class Scores:
    """Pixels of class i that were said to be j, (K, K), of `n` images; files that could not be read
    with the reason; some (path, image, truth, prediction).
    """

    confusion: NDArray[np.int64]
    n: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    shown: list[tuple[str, Pixels, NDArray[Any], NDArray[Any]]] = field(default_factory=list)


@torch.inference_mode()
def classes_of(model: Segmenter, image: Pixels, test: Test) -> NDArray[np.int64]:
    """The classes (H, W) of an image (H, W, C), uint8 or normalised."""
    height, width = image.shape[:2]
    device = next(model.parameters()).device
    pixels, side = to_tensor(image), model.arguments["short_side"]
    factor = base_scale(height, width, side)
    if factor != 1:
        size = [max(1, round(height * factor)), max(1, round(width * factor))]
        pixels = tv.resize(pixels, size, InterpolationMode.BILINEAR, antialias=True)
    normal = model.encoder.normalize(pixels.to(device))
    window = model.encoder.image_size
    steps = [min(w, test.stride) if test.stride else max(1, w * 2 // 3) for w in window]

    def predict(windows: Tensor) -> Tensor:
        with autocast(test.precision, device):
            return model.logits(windows)

    stride = (steps[0], steps[1])
    scores = averaged(
        predict, normal, (height, width), window, stride, test.scales, test.flip, test.at_a_time
    )
    found: NDArray[np.int64] = scores.argmax(dim=0).cpu().numpy()
    return found


def score(
    model: Segmenter, source: MaskSource, test: Test, world: World | None = None, pictures: int = 0
) -> Scores:
    """The confusion of a source, each image whole and at its own size. Ranks of a `world` share the
    images, and all get the result.

    Raises:
        DataError: no image could be read.
    """
    world = world or World()
    training = model.training
    model.eval()
    classes = len(model.classes)
    found = Scores(np.zeros((classes, classes), dtype=np.int64))
    wanted = set(np.linspace(0, len(source) - 1, min(pictures, len(source))).astype(int).tolist())
    for index in range(world.rank, len(source), world.size):
        try:
            sample = source[index]
        except DataError as error:
            found.bad.append((source.path(index), str(error)))
            continue
        said, truth = classes_of(model, sample["image"], test), sample["mask"]
        found.confusion += confusion_of(truth, said, classes)
        found.n += 1
        if index in wanted and world.main:
            found.shown.append((sample["path"], sample["image"], truth, said))
    model.train(training)
    parts = world.gather([found.confusion.tolist(), found.n, found.bad])
    found.confusion = np.sum([np.array(p[0], dtype=np.int64) for p in parts], axis=0)
    found.n = sum(p[1] for p in parts)
    found.bad = [(path, reason) for p in parts for path, reason in p[2]]
    if not found.n:
        raise DataError(f"no image could be read. First: {found.bad[0][0]}: {found.bad[0][1]}")
    return found


def confusion_of(
    truth: NDArray[np.integer], said: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """(K, K): pixels of class i that were said to be j; those without a label are left out."""
    known = truth >= 0
    both = truth[known].astype(np.int64) * classes + said[known]
    return np.bincount(both, minlength=classes**2).reshape(classes, classes)


def measures(confusion: NDArray[np.int64]) -> dict[str, float]:
    """mIoU, mean class accuracy and pixel accuracy, over the classes that occur in the truth or the
    prediction, as usual (for mAcc: in the truth).
    """
    right, truth, said = (v.astype(np.float64) for v in _counts(confusion))
    union = truth + said - right
    with np.errstate(invalid="ignore"):
        iou, accuracy = right / union, right / truth
    return {
        "mIoU": float(np.mean(iou[union > 0])) if (union > 0).any() else 0.0,
        "mAcc": float(np.mean(accuracy[truth > 0])) if (truth > 0).any() else 0.0,
        "aAcc": float(right.sum() / max(truth.sum(), 1)),
    }


def _counts(confusion: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    return confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)


def per_class(confusion: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class: IoU, accuracy (of its pixels), precision, pixels; nothing where a
    number does not exist.
    """
    right, truth, said = _counts(confusion)
    rows = []
    for k, name in enumerate(names):
        union = truth[k] + said[k] - right[k]
        rows.append(
            {
                "class": name,
                "iou": float(right[k] / union) if union else "",
                "accuracy": float(right[k] / truth[k]) if truth[k] else "",
                "precision": float(right[k] / said[k]) if said[k] else "",
                "pixels": int(truth[k]),
            }
        )
    return rows


def write_report(folder: Path, found: Scores, model: Segmenter, title: str) -> None:
    """per_class.csv, confusion.csv, pictures/confusion.png and pictures/predictions.png, which says
    `title`.
    """
    names, labels = model.classes, Labels.of(model.arguments["labels"])
    write_rows(folder / "per_class.csv", per_class(found.confusion, names))
    with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)  # names may stand twice, as in ADE20K
        writer.writerow(["truth \\ said", *names])
        writer.writerows([n, *row] for n, row in zip(names, found.confusion.tolist(), strict=True))
    (folder / "pictures").mkdir(exist_ok=True)
    draw_confusion(found.confusion, names, folder / "pictures" / "confusion.png", "pixels")
    if found.shown:
        rows = []
        for path, image, truth, said in found.shown:
            picture, words = visible(image, model.encoder)
            rows.append(SheetRow(path, picture, truth, said, words))
        page = sheet(rows, names, shown_colours(labels), title)
        page.save(folder / "pictures" / "predictions.png")


def tell(values: dict[str, Any], found: Scores, names: Sequence[str], about: str) -> None:
    """Print the result, and the best and the worst classes."""
    drawn = f"n={found.n:,} images{about}"
    say(
        "Result",
        f"mIoU {values['mIoU']:.1%}   pixel accuracy {values['aAcc']:.1%}   class accuracy"
        f" {values['mAcc']:.1%}   ({drawn})",
    )
    rows = [r for r in per_class(found.confusion, names) if r["iou"] != ""]
    rows.sort(key=lambda row: -row["iou"])
    if len(rows) > 6:
        rows = [*rows[:3], *rows[-3:]]
    say("", "IoU " + "   ".join(f"{r['class']} {r['iou']:.1%}" for r in rows))
    for path, reason in found.bad[:3]:
        more = f" ({len(found.bad)} in all)" if len(found.bad) > 3 else ""
        warn(f"{path}: {reason}. Left out{more}")
