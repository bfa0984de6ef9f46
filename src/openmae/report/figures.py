"""Curves of a run, from its metrics.jsonl alone."""

from __future__ import annotations

from typing import Any

from openmae.engine.runfolder import RunFolder, read_jsonl


def plot_curves(folder: RunFolder) -> None:
    """Write pictures/loss.png: training loss, held-out loss and k-NN accuracy over epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_jsonl(folder.metrics)
    trained = [r for r in rows if r.get("loss") is not None]
    if not trained:
        return
    per_epoch = trained[-1]["step"] / trained[-1]["epoch"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(
        [r["epoch"] for r in trained],
        [r["loss"] for r in trained],
        color="#1f5fa8",
        lw=1,
        label="training",
    )
    _points(axes, rows, "val_loss", per_epoch, "#c4501b", "held out, fixed masks")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss on masked patches")
    axes.set_title(folder.path.name)
    axes.legend(loc="upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    if any("knn_accuracy" in r for r in rows):
        right = axes.twinx()
        _points(right, rows, "knn_accuracy", per_epoch, "#3b7d3b", "k-NN accuracy (right)")
        right.set_ylabel("k-NN accuracy")
        right.set_ylim(0, min(1.0, 1.5 * max(r.get("knn_accuracy", 0) for r in rows) + 0.01))
        right.legend(loc="center right", frameon=False)
    folder.pictures.mkdir(exist_ok=True)
    figure.savefig(folder.pictures / "loss.png", dpi=120)


def _points(
    axes: Any, rows: list[dict[str, Any]], name: str, per_epoch: float, colour: str, label: str
) -> None:
    found = [(r["step"] / per_epoch, r[name]) for r in rows if name in r]
    if found:
        axes.plot(*zip(*found, strict=True), color=colour, marker="o", ms=3, lw=1, label=label)
