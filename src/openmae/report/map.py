"""A picture of images as points: what lies close has similar vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_COLOURS = (  # Okabe and Ito, told apart by everybody, and five more
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000",
    "#7F3C8D", "#666666", "#8C6D31", "#3969AC",
)  # fmt: skip


def draw_map(
    points: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Draw points (N, 2), coloured by class where there are two to twelve."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    size = float(np.clip(4000 / max(len(points), 1), 3, 40))
    if 2 <= len(classes) <= len(_COLOURS):
        for number, name in enumerate(classes):
            rows = points[labels == number]
            label = name if len(name) <= 24 else f"{name[:23]}…"
            colour = _COLOURS[number]
            x, y = rows[:, 0], rows[:, 1]
            axes.scatter(x, y, s=size, c=colour, alpha=0.8, linewidths=0, label=f" {label}")
        legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            handle.set_sizes([40])  # type: ignore[union-attr]
            text.set_parse_math(False)
    else:
        x, y = points[:, 0], points[:, 1]
        axes.scatter(x, y, s=size, c=_COLOURS[0], alpha=0.7, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#cccccc")
    axes.set_title(title, fontsize=11)
    figure.savefig(path, dpi=120)
