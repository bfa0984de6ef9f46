"""The confusion picture of a classifier: rows are the truth, columns what was said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MOST = 30  # classes that can be read in a picture
_WITH_COUNTS = 20


def draw_confusion(
    table: NDArray[np.int64], classes: Sequence[str], path: Path, what: str = "images"
) -> None:
    """Draw counts (K, K) of images or pixels as shares of each row; of more than 30 classes the 30
    with most mistakes, and the title says so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total, right = int(table.sum()), int(table.trace())
    title = f"{right / max(total, 1):.1%} of {total:,} {what} right"
    if len(classes) > _MOST:
        wrong = table.sum(axis=0) + table.sum(axis=1) - 2 * table.diagonal()
        chosen = np.sort(np.argsort(-wrong, kind="stable")[:_MOST])
        table, names = table[np.ix_(chosen, chosen)], [classes[i] for i in chosen]
        title += f"; the {_MOST} of {len(classes)} classes with most mistakes"
    else:
        names = list(classes)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.38 * len(names)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    labels = [_short(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90 if len(names) > 6 else 0)
    axes.set_yticks(range(len(names)), labels)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    axes.set_xlabel("said")
    axes.set_ylabel("truth")
    axes.set_title(title, fontsize=10)
    if len(names) <= _WITH_COUNTS:
        for i, j in zip(*np.nonzero(table), strict=True):
            colour = "white" if share[i, j] > 0.55 else "#333333"
            axes.text(j, i, str(table[i, j]), ha="center", va="center", fontsize=7, color=colour)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _short(name: str) -> str:
    """A class name that fits beside the picture; what cannot be drawn is replaced."""
    plain = name.encode("utf-8", "replace").decode().replace("\n", " ")
    return plain if len(plain) <= 18 else plain[:17] + "…"
