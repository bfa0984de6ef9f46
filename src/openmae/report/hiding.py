"""Which patches to hide in a picture: by a mask and its ratio, or named one by one.

L patches in row-major order, counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from openmae.errors import UsageError
from openmae.methods.mae import MAE
from openmae.methods.maeparts import mask_of
from openmae.models.masking import num_kept
from openmae.randomness import Rand

PICTURE_MASKS = ("random", "block", "grid")
MOST_CELL = 8  # sides of a grid mask's cells that are offered
LEAST, MOST = 0.05, 0.95  # ratios


def hide(
    method: MAE,
    rand: Rand,
    mask: str | None = None,
    ratio: float | None = None,
    hidden: Sequence[int] = (),
) -> dict[str, Any]:
    """The arguments of `report.pictures.reconstruct` that hide the patches `hidden` of every image,
    or those that a mask (the model's own by default) draws.

    Raises:
        UsageError: the mask does not fit the grid, no patch is left or hidden, or there is no such
            patch.
    """
    rows, length = rand.rows, method.encoder.grid[0] * method.encoder.grid[1]
    if hidden:
        lost = sorted({i for i in hidden if not 0 <= i < length})
        keep = length - len(set(hidden))
        if lost:
            raise UsageError(f"patch {lost[0]}: there are patches 0 to {length - 1}")
        if not keep:
            raise UsageError(f"all {length} patches are hidden: at least one must be visible")
        noise = torch.zeros(rows, length)
        noise[:, sorted(set(hidden))] = 1
        return {"noise": noise, "keep": keep}
    ratio = method.mask_ratio if ratio is None else ratio
    if mask not in (None, method.mask, *PICTURE_MASKS):
        raise UsageError(f"mask {mask}: should be one of {', '.join(PICTURE_MASKS)}")
    try:
        if mask is None or mask == method.mask:
            method.ids(1, lambda _, shape: torch.zeros(shape), ratio=ratio)
            return {"mask_ratio": ratio}
        keep = num_kept(length, ratio, mask)
        noise = mask_of(mask, method.mask_unit)(method.encoder.grid, rand.uniform, rows, ratio)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return {"noise": noise, "keep": keep}


def grid_ratios(grid: tuple[int, int]) -> list[float]:
    """The ratios of grid masks whose cells divide a grid of patches."""
    sides = (n for n in range(2, MOST_CELL + 1) if not (grid[0] % n or grid[1] % n))
    found = [round(1 - 1 / n**2, 4) for n in sides if n * n < grid[0] * grid[1]]
    return [ratio for ratio in found if LEAST <= ratio <= MOST]


def ranges(ids: Iterable[int]) -> str:
    """Numbers of patches as a person would write them: 0-3,7,9-10."""
    parts: list[list[int]] = []
    for number in sorted(set(ids)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
