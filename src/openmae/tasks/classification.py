"""A classifier at test time: logits of a source, scores, and the report that every task writes."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openmae.data.loader import EvalBatches, loader
from openmae.data.sources import Source
from openmae.data.transforms import EvalTransform
from openmae.engine.device import autocast
from openmae.engine.distributed import World
from openmae.engine.log import say, warn
from openmae.engine.spread import Part, in_order, own_batches
from openmae.errors import DataError
from openmae.methods.classify import Classifier
from openmae.report.confusion import draw_confusion
from openmae.tasks.metrics import confusion, multi_label, per_class, per_label, single_label


@dataclass
class Predictions:
    """Logits (N, K) float32, labels (N,) or (N, K), paths, and the files that could not be read."""

    logits: NDArray[np.float32]
    labels: NDArray[Any]
    paths: list[str]
    bad: list[tuple[str, str]]


@torch.inference_mode()
def predict(
    model: Classifier,
    source: Source,
    crop_pct: float,
    batch_size: int,
    workers: int,
    device: torch.device,
    precision: str,
    world: World | None = None,
) -> Predictions:
    """Run the classifier on every image, in order; what cannot be read is listed and left out. The
    ranks of a `world` share the work, and all get the result.

    Raises:
        DataError: no image could be read.
    """
    training = model.training
    model.eval()
    batches = EvalBatches(source, EvalTransform(model.encoder.image_size, crop_pct), batch_size)
    numbers = own_batches(world or World(), len(batches))
    logits, labels, paths, bad = [], [], [], []

    def parts() -> Iterator[Part]:
        for batch in loader(batches, numbers, workers, pin=device.type == "cuda"):
            if batch["image"] is None:
                yield Part(bad=batch["bad"])
                continue
            with autocast(precision, device):
                out = model.logits(batch["image"].to(device, non_blocking=True))
            yield Part(out.float().cpu().numpy(), batch["label"], batch["path"], batch["bad"])

    for part in in_order(world or World(), len(batches))(parts()):
        bad += part.bad
        if part.values is not None:
            logits.append(part.values)
            labels += part.labels
            paths += part.paths
    model.train(training)
    if not logits:
        raise DataError(f"no image could be read. First: {bad[0][0]}: {bad[0][1]}")
    return Predictions(np.concatenate(logits), np.array(labels), paths, bad)


def warn_bad(found: Predictions) -> None:
    """Name the first files that could not be read."""
    more = f" ({len(found.bad)} in all)" if len(found.bad) > 3 else ""
    for path, reason in found.bad[:3]:
        warn(f"{path}: {reason}. Left out{more}")


def metrics(
    found: Predictions, train_labels: NDArray[Any] | None = None, several: bool = False
) -> dict[str, Any]:
    """Scores, flat: see `tasks.metrics`. `several` is for images with several labels."""
    if several:
        return multi_label(found.logits, found.labels)
    return single_label(found.logits, found.labels, train_labels)


def write_report(
    folder: Path, found: Predictions, classes: Sequence[str], several: bool = False
) -> None:
    """Write per_class.csv and, for single labels, pictures/confusion.png."""
    if several:
        rows = per_label(found.logits, found.labels, classes)
    else:
        table = confusion(found.logits, found.labels)
        rows = per_class(table, classes)
        (folder / "pictures").mkdir(exist_ok=True)
        draw_confusion(table, classes, folder / "pictures" / "confusion.png")
    write_rows(folder / "per_class.csv", rows)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table as CSV; numbers with four digits, nothing where there is none."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow([f"{v:.4f}" if isinstance(v, float) else v for v in row.values()])


def tell(
    values: Mapping[str, Any],
    found: Predictions,
    classes: Sequence[str],
    seed: int | None = None,
    several: bool = False,
) -> None:
    """Print the result, and the commonest mistake."""
    drawn = f"n={values['n']:,}" + (f", seed {seed}" if seed is not None else "")
    if several:
        exact = f"all labels right {values['exact_match']:.1%}"
        say(
            "Result",
            f"mAP {values['mAP']:.1%} ({drawn})   micro F1 {values['micro_f1']:.3f}   {exact}",
        )
        return
    words = [
        f"{values['accuracy']:.1%} top-1 [{values['low_95']:.1%}, {values['high_95']:.1%}] (95 %,"
        f" {drawn})"
    ]
    if "accuracy_top5" in values:
        words.append(f"top-5 {values['accuracy_top5']:.1%}")
    if "majority_accuracy" in values:
        words.append(f"majority class {values['majority_accuracy']:.1%}")
    say("Result", "   ".join(words))
    rows = per_class(confusion(found.logits, found.labels), classes)
    worst = max(rows, key=lambda row: row["times"])
    if worst["times"]:
        say(
            "",
            f"worst: {worst['class']} -> {worst['mistaken_for']} {worst['times']} of {worst['n']}",
        )
