"""The picture of docs/performance.md."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(results: dict[str, dict[str, Any]]) -> str:
    """Of what the picture shows."""
    shown = {name: result["rows"] for name, result in results.items()}
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars of images a second, a panel for each result. The digest of the numbers
    is written into the picture, so that a test can tell whether it is theirs.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "openmae"
    matplotlib.rcParams["svg.fonttype"] = "path"
    from matplotlib import pyplot as plt

    counts = [len(r["rows"]) for r in results.values()]
    figure, panels = plt.subplots(
        len(results),
        1,
        figsize=(8, 0.9 * len(results) + 0.28 * sum(counts)),
        squeeze=False,
        gridspec_kw={"height_ratios": counts},
    )
    for axis, result in zip(panels[:, 0], results.values(), strict=True):
        rows = sorted(result["rows"], key=lambda r: r["images_per_s"])
        own = [r["name"].startswith("openmae") for r in rows]
        colours = ["#1f5fa8" if o else "#b9bec6" for o in own]
        axis.barh([r["name"] for r in rows], [r["images_per_s"] for r in rows], color=colours)
        for at, row in enumerate(rows):
            axis.text(row["images_per_s"], at, f" {row['images_per_s']:.4g}", va="center")
        axis.set_xlim(0, 1.15 * rows[-1]["images_per_s"])
        axis.set_title(
            f"{result['model']}, batch {result['batch_size']}, {result['precision']},"
            f" {result['machine']['device']}, n = {result['repeats']}",
            loc="left",
        )
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("images a second")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Description": digest(results)})
    plt.close(figure)
