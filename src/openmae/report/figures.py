"""Curves of a run, from its metrics.jsonl alone."""

from __future__ import annotations

from typing import Any

from openmae.engine.runfolder import RunFolder, read_jsonl

_SCORES = {
    "knn_accuracy": "k-NN accuracy",
    "test_accuracy": "test accuracy",
    "test_mAP": "test mAP",
}


def plot_curves(folder: RunFolder) -> None:
    """Write pictures/loss.png: training and held-out loss, and accuracy where there is one, over
    epochs.
    """
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
    _points(axes, rows, "test_loss", per_epoch, "#c4501b", "test, not augmented")
    axes.set_xlabel("epoch")
    supervised = any("test_loss" in r for r in rows)
    axes.set_ylabel("cross-entropy" if supervised else "loss on masked patches")
    axes.set_title(folder.path.name)
    axes.legend(loc="upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    for name, label in _SCORES.items():
        if values := [r[name] for r in rows if name in r]:
            right = axes.twinx()
            _points(right, rows, name, per_epoch, "#3b7d3b", f"{label} (right)")
            right.set_ylabel(label)
            right.set_ylim(0, min(1.0, 1.5 * max(values) + 0.01))
            right.legend(loc="center right", frameon=False)
    folder.pictures.mkdir(exist_ok=True)
    figure.savefig(folder.pictures / "loss.png", dpi=120)


def _points(
    axes: Any, rows: list[dict[str, Any]], name: str, per_epoch: float, colour: str, label: str
) -> None:
    found = [(r["step"] / per_epoch, r[name]) for r in rows if name in r]
    if found:
        axes.plot(*zip(*found, strict=True), color=colour, marker="o", ms=3, lw=1, label=label)
