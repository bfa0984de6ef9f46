"""ImageNet-C as published (Hendrycks and Dietterich 2019): errors of corruptions, and mCE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
    "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948,
    "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572, "fog": 0.819324,
    "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
    "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
"""Mean top-1 error of AlexNet over the five severities, as its authors give it: the divisors."""

_SEVERITIES = (1, 2, 3, 4, 5)
_IMAGENET = 1000

Errors = Mapping[str, Mapping[int, float]]


def find_corruptions(root: Path) -> dict[str, dict[int, Path]]:
    """Folders CORRUPTION/SEVERITY with class folders below, also one level deeper as ImageNet-C is
    unpacked (noise/, blur/, weather/, digital/, extra/): corruption -> severity -> folder.
    """
    found: dict[str, dict[int, Path]] = {}
    if not root.is_dir():
        return found
    for folder in sorted(p for p in (*root.iterdir(), *root.glob("*/*")) if p.is_dir()):
        levels = {s: folder / str(s) for s in _SEVERITIES if (folder / str(s)).is_dir()}
        classes = any(p.is_dir() for level in levels.values() for p in level.iterdir())
        known = folder.name in ALEXNET or len(levels) == len(_SEVERITIES)
        if levels and classes and known:
            found[folder.name] = levels
    return found


def summary(errors: Errors, classes: int) -> dict[str, Any]:
    """The mean error over corruptions and severities, and, for a model of ImageNet-1K with all 15
    corruptions and 5 severities, mCE: the mean of 100 * error / AlexNet's error.
    """
    means = {name: sum(levels.values()) / len(levels) for name, levels in errors.items()}
    values: dict[str, Any] = {f"error_{name}": mean for name, mean in means.items()}
    counted = [name for name in means if name in ALEXNET] or list(means)
    values["mean_corruption_error"] = sum(means[n] for n in counted) / len(counted)
    values["corruptions"] = len(counted)
    whole = all(set(errors.get(name, {})) == set(_SEVERITIES) for name in ALEXNET)
    if whole and classes == _IMAGENET:
        ratios = [100 * means[name] / ALEXNET[name] for name in ALEXNET]
        values["mCE"] = sum(ratios) / len(ratios)
    return values


def corruption_table(errors: Errors) -> list[dict[str, Any]]:
    """One row a corruption: the error at each severity and their mean."""
    rows = []
    for name, levels in errors.items():
        row: dict[str, Any] = {"corruption": name}
        row |= {f"severity_{s}": levels.get(s) for s in _SEVERITIES}
        rows.append(row | {"mean": sum(levels.values()) / len(levels)})
    return rows
