"""`openmae reconstruct --across`: the same images at several steps, mask ratios or seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from openmae.config.pictures import ReconstructConfig, patches_of
from openmae.engine.log import say
from openmae.errors import UsageError
from openmae.methods.mae import MAE
from openmae.randomness import Rand
from openmae.report.hiding import grid_ratios, hide
from openmae.report.picturegrid import Column, means
from openmae.report.pictures import Reconstruction, reconstruct
from openmae.weights import Loaded
from openmae.weights.steps import Steps

_RATIOS = (0.5, 0.65, 0.75, 0.85, 0.95)
_SEEDS = 5
_SHEET, _VIDEO = 6, 24  # steps of a run that are shown, evenly spaced


def across_of(config: ReconstructConfig) -> str | None:
    """What changes, if anything does."""
    return config.across or ("steps" if config.video is not None else None)


def values_of(config: ReconstructConfig, loaded: Loaded, method: MAE) -> list[float]:
    """The values that are shown, each checked; none without --across.

    Raises:
        UsageError: a mask of one of them does not fit the model, or a step is not there.
    """
    across, given = across_of(config), list(config.values)
    if across is None:
        return []
    if across == "seeds":
        return given or [float(config.seed + i) for i in range(_SEEDS)]
    if across == "ratios":
        found = given or _ratios(config, method)
        for ratio in found:
            try:
                hide(method, Rand(config.seed, 0, 0.0, 0, 1), config.mask, ratio)
            except UsageError as error:
                raise UsageError(f"--values {ratio:g}: {error}") from None
        return found
    saved = Steps(loaded).listed()
    lost = [f"{step:g}" for step in given if step not in saved]
    if lost:
        steps = ", ".join(map(str, saved)) or "none, it is no run folder"
        raise UsageError(f"--values {lost[0]}: there is no such checkpoint. Saved: {steps}")
    if not saved:
        raise UsageError(
            f"{loaded.what} has no checkpoints for --across steps. Give --across ratios or seeds"
        )
    most = _VIDEO if config.video is not None and not config.grid else _SHEET
    rows = np.linspace(0, len(saved) - 1, min(most, len(saved))).round().astype(int)
    return given or [float(saved[i]) for i in sorted(set(rows.tolist()))]


def _ratios(config: ReconstructConfig, method: MAE) -> list[float]:
    """The usual ratios, or those of a grid mask; the model's own among them."""
    if "grid" in (config.mask, method.mask if config.mask is None else ""):
        return grid_ratios(method.encoder.grid)
    length = method.encoder.grid[0] * method.encoder.grid[1]
    return sorted({*(r for r in _RATIOS if int(length * (1 - r))), method.mask_ratio})


def rows_of(
    config: ReconstructConfig,
    method: MAE,
    images: Tensor,
    names: Sequence[str],
    ratio: float | None,
    seed: int,
) -> list[Reconstruction]:
    """A reconstruction of each image under one mask ratio and seed."""
    rand = Rand(seed, 0, 0.0, 0, len(images))
    hidden = patches_of(config.hide) if config.hide else ()
    chosen = hide(method, rand, config.mask, ratio, hidden)
    return reconstruct(
        method, images, rand, names, cheat_scale=config.cheat_scale, bands=config.bands, **chosen
    )


def columns_across(
    config: ReconstructConfig,
    loaded: Loaded,
    method: MAE,
    images: Tensor,
    names: Sequence[str],
    values: Sequence[float],
) -> tuple[list[Column], dict[str, Any]]:
    """A label and the reconstructions of each value; and the mean errors as results."""
    across, steps = across_of(config), Steps(loaded, images.device)
    found: list[Column] = []
    results: dict[str, Any] = {}
    for value in values:
        ratio, seed, model, label = config.mask_ratio, config.seed, method, f"hidden {value:.0%}"
        if across == "ratios":
            ratio = value
        elif across == "seeds":
            seed, label = int(value), f"seed {value:g}"
        else:
            other = steps.at(int(value))
            assert isinstance(other, MAE)
            model, label = other, f"step {int(value):,}"
        rows = rows_of(config, model, images, names, ratio, seed)
        error, fill = means(rows)
        results[f"reconstruction_mse_at_{value:.10g}"] = error
        results[f"mean_fill_mse_at_{value:.10g}"] = fill
        say("", f"{label}: masked-patch MSE {error:.4f}, mean fill {fill:.4f}")
        found.append((label, rows))
    return found, results
