"""Mistakes in what a task is given, found before anything is read for long."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openmae.data.sources import Source
from openmae.engine.runfolder import CONFIG
from openmae.errors import DataError


def require_order(model: str, data: str) -> None:
    """Raise DataError where the images are a run folder: the two were turned round, or one was
    given twice.
    """
    run = Path(data).expanduser()
    if not (run / CONFIG).is_file() or not (run / "checkpoints").is_dir():
        return
    other = Path(model).expanduser()
    turned = other.is_dir() and not (other / CONFIG).is_file()
    fix = f"Turn them round: {data} {model}" if turned else "The model comes first, then the images"
    raise DataError(f"{data} is a run folder, not a folder of images. {fix}")


def require_two(source: Source, task: str) -> None:
    """Raise DataError where all training images are of one class, as after a split of very few."""
    labels = np.asarray(source.labels)
    if labels.ndim == 1 and len(np.unique(labels)) < 2:
        raise DataError(
            f"{task} needs >= 2 classes, the training part of {source.name} holds one only"
            f" ({len(source)} images): more images, or train/ and test/"
        )
