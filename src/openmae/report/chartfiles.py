"""Curves as files, for papers and slides: a PNG and an SVG of each panel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openmae.report.chart import COLOURS, DASHES
from openmae.report.curves import Panel, axis_words


def write_figures(panels: Sequence[Panel], folder: Path) -> list[str]:
    """Write NAME.png and NAME.svg of each panel; returns their names."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for panel in panels:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", panel.name).strip(".")[:80] or "curve"
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for line in panel.lines:
            style = line.style % len(COLOURS)
            dash = DASHES[style].split()
            how = (0, [float(d) / 2 for d in dash]) if dash else "solid"
            if len(line.x) < line.of:
                axes.fill_between(
                    line.x, line.low, line.high, color=COLOURS[style], alpha=0.2, lw=0
                )
            marker = "o" if line.points or np.isfinite(line.y).sum() == 1 else ""
            label = _plain(line.label)
            axes.plot(line.x, line.y, color=COLOURS[style], ls=how, lw=1.2, marker=marker, ms=3,
                      label=label)  # fmt: skip
        for at, _ in panel.marks[:200]:
            axes.axvline(at, ymax=0.05, color="#b3261e", lw=1)
        if panel.log:
            axes.set_yscale("log")
        elif panel.zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(axis_words(panel.axis))
        axes.set_ylabel(_plain(panel.title) + (f", {panel.unit}" if panel.unit else ""))
        if len(panel.lines) > 1:
            axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        with matplotlib.rc_context({"svg.hashsalt": "openmae", "text.usetex": False}):
            for kind in ("png", "svg"):
                told = {"Software": None} if kind == "png" else {"Date": None}
                figure.savefig(folder / f"{name}.{kind}", dpi=150, metadata=told)
                written.append(f"{name}.{kind}")
    return written


def _plain(label: str) -> str:
    """Names are not formulas, and the font has no control characters."""
    shown = "".join(c if c.isprintable() else "?" for c in label)
    return shown.replace("$", r"\$").lstrip("_") or "-"
