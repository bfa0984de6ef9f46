"""Which patches are hidden: random, block-wise and grid-wise sampling (Table 1f of the paper).

A mask is a function (grid, uniform, batch, ratio) -> priority (B, L). The K patches of smallest
priority are kept, K = int(L * (1 - ratio)) as in the published code; the rest are hidden.
`uniform(purpose, shape)` gives noise in [0, 1). B batch, L = h*w patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Uniform = Callable[[str, tuple[int, ...]], Tensor]
Mask = Callable[[tuple[int, int], Uniform, int, float], Tensor]


def cell(ratio: float) -> int:
    """The side n of a grid mask's cells, from its ratio 1 - 1/n^2."""
    n = round((1 / (1 - ratio)) ** 0.5) if 0 < ratio < 1 else 0
    if n < 2 or abs(1 - 1 / n**2 - ratio) > 1e-3:
        raise ValueError(
            f"a grid mask hides 1 - 1/n^2 of the patches (0.75, 0.8889, 0.9375), not {ratio}"
        )
    return n


def num_kept(num_patches: int, ratio: float, mask: str = "random") -> int:
    """K = int(L * (1 - ratio)), the published floor: 100 patches keep 9 at 0.9 and 19 at 0.8. A
    grid keeps L / n^2.
    """
    kept = num_patches // cell(ratio) ** 2 if mask == "grid" else int(num_patches * (1 - ratio))
    if not 0 < kept < num_patches:
        most = math.floor(100 * (1 - 1 / num_patches)) / 100
        hint = "" if kept else f": at most {most:g}"
        raise ValueError(
            f"mask ratio {ratio} keeps {kept} of {num_patches} patches; at least one must be kept"
            f" and one hidden{hint}"
        )
    return kept


def random(grid: tuple[int, int], uniform: Uniform, batch: int, ratio: float) -> Tensor:
    """Uniform random sampling without replacement: the priority is the noise itself."""
    return uniform("mask", (batch, grid[0] * grid[1]))


def block(grid: tuple[int, int], uniform: Uniform, batch: int, ratio: float) -> Tensor:
    """Block-wise sampling as in BEiT: rectangles of at least 16/196 of the area, aspect 0.3 to
    1/0.3, hidden in turn.

    A patch ranks by the first rectangle that covers it; noise breaks ties, so that exactly L - K
    are hidden.
    """
    h, w = grid
    length, max_rectangles = h * w, 64
    hidden = length - num_kept(length, ratio)
    smallest = length * 16 / 196
    noise = uniform("mask", (batch, length))
    draws = uniform("mask-blocks", (batch, max_rectangles, 4)).double()
    row, col = torch.arange(h)[None, :, None], torch.arange(w)[None, None, :]
    rank = torch.zeros(
        batch, h, w, dtype=torch.float64
    )  # 0: no rectangle; else the earlier, the larger
    for i in range(max_rectangles):
        remaining = hidden - (rank > 0).sum((1, 2))
        if not (remaining > 0).any():
            break
        area = smallest + draws[:, i, 0] * (remaining - smallest).clamp(min=0)
        aspect = torch.exp(math.log(0.3) + draws[:, i, 1] * (math.log(1 / 0.3) - math.log(0.3)))
        height = (area * aspect).sqrt().round().clamp(1, h).long()
        width = (area / aspect).sqrt().round().clamp(1, w).long()
        top = (draws[:, i, 2] * (h - height + 1)).long().clamp(max=h - 1)[:, None, None]
        left = (draws[:, i, 3] * (w - width + 1)).long().clamp(max=w - 1)[:, None, None]
        inside = (
            (row >= top)
            & (row < top + height[:, None, None])
            & (col >= left)
            & (col < left + width[:, None, None])
        )
        # A finished sample takes no further rectangle: its mask must not depend on the rest of the
        # batch.
        new = inside & (rank == 0) & (remaining > 0)[:, None, None]
        rank[new] = max_rectangles - i
    return rank.flatten(1) + noise


def grid_wise(grid: tuple[int, int], uniform: Uniform, batch: int, ratio: float) -> Tensor:
    """Grid-wise sampling: keeps the first patch of every n x n cell, so the ratio must be 1 -
    1/n^2.
    """
    n = cell(ratio)
    if grid[0] % n or grid[1] % n:
        raise ValueError(
            f"a grid mask of ratio {ratio} needs sides that divide by {n}, not {grid[0]}x{grid[1]}"
            " patches"
        )
    row, col = torch.arange(grid[0])[:, None], torch.arange(grid[1])[None, :]
    kept = (row % n == 0) & (col % n == 0)
    return (~kept).float().flatten().expand(batch, -1)


MASKS: dict[str, Mask] = {"random": random, "block": block, "grid": grid_wise}
"""Name -> mask. To add one, write the function above and its line here."""


def choose(priority: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Split the patches of each sample by priority (B, L) into kept ids (B, K) and hidden ids (B, L
    - K).
    """
    ids = priority.argsort(dim=1, stable=True)
    return ids[:, :kept], ids[:, kept:]


def for_each(make: Callable[[Uniform], Tensor], uniform: Uniform, masks: int) -> Tensor:
    """What `make` makes of the noise of each of an image's masks, (B, N) -> (B * masks, N), those
    of an image in turn. The first mask has the noise that a single one has.
    """
    if masks == 1:
        return make(uniform)
    more = [lambda what, shape, k=k: uniform(f"{what}-{k}", shape) for k in range(1, masks)]
    return torch.stack([make(own) for own in (uniform, *more)], dim=1).flatten(0, 1)


def some_of(ids: Tensor, noise: Tensor, count: int) -> Tensor:
    """For each sample the `count` ids (B, M) of smallest noise (B, M), in that order."""
    return ids.gather(1, noise.argsort(dim=1, stable=True)[:, :count])


def moved(noise: Tensor, device: torch.device | None) -> Tensor:
    """Noise on the device, without waiting for it."""
    if device is not None and device.type == "cuda" and noise.device.type == "cpu":
        noise = noise.pin_memory()  # else the copy would wait for the device
    return noise.to(device, non_blocking=True)
