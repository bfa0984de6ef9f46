"""`openmae predict`: classes of images, one line each."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from openmae.config.base import Options
from openmae.config.finetune import PredictConfig, crop_share
from openmae.data.sources import open_source
from openmae.engine.device import auto_workers, resolve_precision
from openmae.engine.distributed import World, joined
from openmae.engine.log import say
from openmae.engine.runfolder import Results
from openmae.errors import StorageError
from openmae.methods.classify import Classifier
from openmae.tasks.classification import Predictions, predict, warn_bad
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.evaluate import open_classifier
from openmae.tasks.reading import dry


def run(config: PredictConfig, options: Options) -> Results:
    """Write path, class and confidence of every image; unreadable ones have a reason instead."""
    out = Path(config.out).expanduser()
    if not out.parent.is_dir():
        raise StorageError(f"{out.parent} does not exist. Make it first, or give another -o")
    with joined(config.device) as world:
        return _predict(config, options, out, world)


def _predict(config: PredictConfig, options: Options, out: Path, world: World) -> Results:
    model, _ = open_classifier(config)
    source = open_source(config.data, decoding_of(model.encoder), split="all")
    require_fit(source, model.encoder)
    if options.dry_run:
        return dry()
    device = next(model.parameters()).device
    workers = auto_workers(device.type) if config.workers is None else config.workers
    share = crop_share(config.crop_pct, model.encoder.image_size)
    precision = resolve_precision("auto", device)
    found = predict(model, source, share, config.batch_size, workers, device, precision, world)
    if not world.main:
        return Results({})
    warn_bad(found)
    temporary = out.with_name(f".tmp-{out.name}")
    try:
        _write(temporary, model, found, config)
        os.replace(temporary, out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from None
    say("Out", f"{len(found.paths):,} of {len(source):,} images -> {out}")
    return Results({"n": len(found.paths), "unreadable": len(found.bad)}, out.parent)


def _write(path: Path, model: Classifier, found: Predictions, config: PredictConfig) -> None:
    scores = expit(found.logits) if model.multi_label else softmax(found.logits, axis=1)
    top = 1 if model.multi_label else min(config.top, len(model.classes))
    head = ["path"]
    for rank in range(1, top + 1):
        head += ["class", "confidence"] if rank == 1 else [f"class_{rank}", f"confidence_{rank}"]
    head += [*model.classes] if config.probabilities else []
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow([*head, "problem"])
        for name, row in zip(found.paths, scores, strict=True):
            chosen = _chosen(row, model, top, config.threshold)
            shares = [f"{v:.6f}" for v in row] if config.probabilities else []
            writer.writerow([name, *chosen, *shares, ""])
        for name, reason in found.bad:
            writer.writerow([name, *[""] * (len(head) - 1), reason])


def _chosen(row: NDArray[Any], model: Classifier, top: int, threshold: float) -> list[str]:
    """Names and confidences of an image's classes, the most likely first."""
    order = np.argsort(-row, kind="stable")
    if model.multi_label:
        above = [k for k in order if row[k] >= threshold]
        lowest = f"{row[above].min():.6f}" if above else ""
        return [";".join(model.classes[k] for k in above), lowest]
    return [word for k in order[:top] for word in (model.classes[k], f"{row[k]:.6f}")]
