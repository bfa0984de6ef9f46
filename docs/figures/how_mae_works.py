"""The figures of docs/how-mae-works.md, from the digits of scikit-learn: seconds on a CPU.

python docs/figures/how_mae_works.py docs/images
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from openmae.models import masking
from openmae.models.positions import sincos_2d
from openmae.randomness import Rand

RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9)
PATCH = 2
BLUE, RED, GRAY = "#1f5fa8", "#c4501b", "#8a8f94"


def digits() -> NDArray[np.float64]:
    """(N, 8, 8) in [0, 1]."""
    return np.asarray(load_digits().images / 16.0)


def hidden(kind: str, ratio: float, count: int, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Which patches are hidden (count, h, w)."""
    rand = Rand(0, 0, 0.0, 0, count)
    priority = getattr(masking, kind)(grid, rand.uniform, count, ratio)
    kept, _ = masking.choose(priority, masking.num_kept(grid[0] * grid[1], ratio, kind))
    mask = torch.ones(count, grid[0] * grid[1], dtype=torch.bool)
    return np.asarray(mask.scatter(1, kept, False).view(count, *grid))


def interpolated(images: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Hidden pixels as the smoothest surface through the visible ones: each the mean of its four
    neighbours (Laplace's equation, by 400 sweeps).
    """
    pixels = np.kron(mask, np.ones((1, PATCH, PATCH), bool))
    means = np.array([i[~m].mean() for i, m in zip(images, pixels, strict=True)])
    filled = np.where(pixels, means[:, None, None], images)
    for _ in range(400):
        padded = np.pad(filled, ((0, 0), (1, 1), (1, 1)), mode="edge")
        around = (
            padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
        )
        filled = np.where(pixels, around / 4, images)
    return filled


def sampling(folder: Path) -> None:
    """Error of interpolation over the mask ratio, for scattered patches and for blocks."""
    images = digits()[:400]
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1, 1)
    for kind, color, label in (("random", BLUE, "random patches"), ("block", RED, "blocks")):
        errors = []
        for ratio in RATIOS:
            mask = hidden(kind, ratio, len(images), (4, 4))
            pixels = np.kron(mask, np.ones((1, PATCH, PATCH), bool))
            guess = interpolated(images, mask)
            mean = np.array([i[~m].mean() for i, m in zip(images, pixels, strict=True)])
            plain = np.broadcast_to(mean[:, None, None], images.shape)
            error, floor = ((g - images)[pixels] for g in (guess, plain))
            errors.append(float((error**2).mean() / (floor**2).mean()))
        axes.plot([100 * r for r in RATIOS], errors, "o-", color=color, label=label)
    axes.axhline(1, color=GRAY, lw=1, ls="--", label="the mean of the visible pixels")
    axes.set(
        xlabel="hidden, %", ylabel="error of smooth interpolation,\nmean fill = 1", ylim=(0, None)
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, folder / "how-sampling.png")


def positions(folder: Path) -> None:
    """Similarity of the position of one patch with all others."""
    table = sincos_2d(192, (14, 14))
    near = torch.nn.functional.cosine_similarity(table[:, None], table[None], dim=2)
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (row, column) in enumerate(((7, 7), (2, 2), (7, 13))):
        axes = figure.add_subplot(1, 3, i + 1)
        axes.imshow(near[row * 14 + column].view(14, 14), cmap="viridis", vmin=0, vmax=1)
        axes.plot(column, row, "o", color="white", ms=4)
        axes.set(xticks=[], yticks=[], title=f"row {row}, column {column}")
    save(figure, folder / "how-positions.png")


def cost(folder: Path) -> None:
    """Operations of the encoder over the ratio (computed), beside the paper's probe (published)."""
    ratios = np.linspace(0, 0.95, 39)
    tokens, dim, depth = 196 * (1 - ratios) + 1, 1024, 24
    operations = depth * (24 * tokens * dim**2 + 4 * tokens**2 * dim)
    paper = {
        10: 54.6,
        20: 58.9,
        30: 61.7,
        40: 67.0,
        50: 69.9,
        60: 71.8,
        70: 73.2,
        75: 73.5,
        80: 71.8,
        90: 66.1,
    }
    tuned = {
        10: 83.2,
        20: 83.4,
        30: 83.4,
        40: 84.7,
        50: 84.9,
        60: 85.0,
        70: 84.9,
        75: 84.9,
        80: 84.5,
        90: 83.0,
    }
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    left.plot(100 * ratios, operations / operations[0], color=BLUE)
    left.set(
        xlabel="hidden, %",
        ylabel="operations of the encoder\n(all patches = 1), ViT-L",
        ylim=(0, 1),
    )
    right.plot(list(paper), list(paper.values()), "o-", color=RED, label="linear probe")
    right.plot(list(tuned), list(tuned.values()), "o-", color=BLUE, label="fine-tuning")
    right.set(xlabel="hidden, %", ylabel="ImageNet top-1, %\n(published, Figure 5)")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, folder / "how-ratio.png")


def save(figure: Figure, path: Path) -> None:
    """As PNG."""
    figure.savefig(path, dpi=130, metadata={"Software": None})


def main(folder: Path) -> None:
    """All figures."""
    folder.mkdir(parents=True, exist_ok=True)
    for make in (sampling, positions, cost):
        make(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
