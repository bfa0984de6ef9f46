"""How often each image is drawn: alike, by class, or as a table says."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmae.data.source import Source
from openmae.errors import DataError


def weigh(source: Source, sampling: str) -> Source:
    """The source with weights: "uniform" (none), "balanced" (each class as often as the others), or
    the name of a CSV with the columns path and weight.

    Raises:
        DataError: no classes, or a table that does not fit.
    """
    if sampling == "uniform":
        return source
    weights = balanced_weights(source) if sampling == "balanced" else _from_table(source, sampling)
    return source.weighed(weights)


def balanced_weights(source: Source) -> NDArray[np.float64]:
    """1 / (images of the class) for each image, (N,)."""
    labels = np.asarray(source.labels)
    if labels.ndim != 1 or len(source.classes) < 2 or (labels < 0).any():
        raise DataError(
            f"{source.name} has no classes to balance. Give one folder for each class, or"
            " --sampling FILE.csv with path and weight"
        )
    counts = np.bincount(labels, minlength=len(source.classes))
    found: NDArray[np.float64] = 1.0 / counts[labels]
    return found


def _from_table(source: Source, table: str) -> NDArray[np.float64]:
    known: dict[str, float] = {}
    path = Path(table).expanduser()
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            missing = {"path", "weight"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(
                    f"{table} has no column {min(missing)!r} in its first line (it has:"
                    f" {', '.join(reader.fieldnames or ()) or 'nothing'})"
                )
            for number, row in enumerate(reader, 2):
                known[row["path"]] = _weight(row["weight"], f"{table}: line {number}")
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{table} cannot be read: {reason}. --sampling takes uniform, balanced or a CSV"
        ) from None
    names = [source.path(i) for i in range(len(source))]
    lost = [name for name in names if name not in known]
    if lost:
        raise DataError(
            f"{table}: {len(lost)} of {len(names)} images have no weight (first: {lost[0]}). Give"
            " each a line; 0 leaves an image out"
        )
    weights = np.array([known[name] for name in names], dtype=np.float64)
    if not weights.any():
        raise DataError(f"{table}: all weights are 0")
    return weights


def _weight(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise DataError(f"{where}: the weight is {text!r}; give a number of at least 0")
    return value
