"""Which patches are hidden: random, block-wise and grid-wise sampling (Table 1f of the paper),
several blocks, and units of patches.

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

MOST_RECTANGLES = 64
"""Of a block mask; what they leave to hide, noise hides."""


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
    length = grid[0] * grid[1]
    return blocks(grid, uniform, batch, length - num_kept(length, ratio))


def blocks(grid: tuple[int, int], uniform: Uniform, batch: int, hidden: int | Tensor) -> Tensor:
    """`block` for a number of hidden patches, or one for each sample (B,), which may be 0."""
    length = grid[0] * grid[1]
    smallest = length * 16 / 196

    def size(draws: Tensor, remaining: Tensor) -> tuple[Tensor, Tensor]:
        area = smallest + draws[:, 0] * (remaining - smallest).clamp(min=0)
        aspect = torch.exp(math.log(0.3) + draws[:, 1] * (math.log(1 / 0.3) - math.log(0.3)))
        return area, aspect

    noise = uniform("mask", (batch, length))
    draws = uniform("mask-blocks", (batch, MOST_RECTANGLES, 4)).double()
    return _in_turn(grid, draws, hidden, size) + noise


def multiblock(grid: tuple[int, int], uniform: Uniform, batch: int, ratio: float) -> Tensor:
    """Several blocks of one size, as the targets of I-JEPA (arXiv 2301.08243): 0.15 to 0.2 of the
    area, aspect 0.75 to 1.5, drawn once for each sample; blocks may overlap.

    As many blocks as it takes to hide exactly L - K patches, the last one in part; there four of
    them, and a context that is the rest of another block.
    """
    length = grid[0] * grid[1]
    noise = uniform("mask", (batch, length))
    shape = uniform("mask-size", (batch, 2)).double()
    draws = uniform("mask-blocks", (batch, MOST_RECTANGLES, 4)).double()
    area = length * (0.15 + 0.05 * shape[:, 0])
    aspect = 0.75 + 0.75 * shape[:, 1]
    hidden = length - num_kept(length, ratio)
    return _in_turn(grid, draws, hidden, lambda own, remaining: (area, aspect)) + noise


def _in_turn(
    grid: tuple[int, int],
    draws: Tensor,
    hidden: int | Tensor,
    size: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """Rectangles until `hidden` patches (of all, or of each (B,)) are covered: the rank of a patch
    (B, L), 0 for none, else the earlier the larger.

    `draws` (B, rectangles, 4) places them; `size` makes area and aspect (B,) of the draws of one
    (B, 4) and of how many patches are still to be covered (B,).
    """
    (h, w), (batch, most) = grid, draws.shape[:2]
    row, col = torch.arange(h)[None, :, None], torch.arange(w)[None, None, :]
    rank = torch.zeros(batch, h, w, dtype=torch.float64)
    for i in range(most):
        remaining = hidden - (rank > 0).sum((1, 2))
        if not (remaining > 0).any():
            break
        area, aspect = size(draws[:, i], remaining)
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
        rank[new] = most - i
    return rank.flatten(1)


def unit(
    grid: tuple[int, int], uniform: Uniform, batch: int, ratio: float, side: int = 4
) -> Tensor:
    """Random sampling of units of side x side patches (Pixio has 4 x 4; SimMIM's 32 px are 2 x 2 of
    16), smaller ones at the far edges of a grid that does not divide. Exactly K patches are kept:
    one unit may be hidden in part.
    """
    h, w = grid
    rows, cols = -(-h // side), -(-w // side)
    if rows * cols < 2:
        raise ValueError(f"mask units of {side}x{side} patches need a grid larger than {h}x{w}")
    noise = uniform("mask", (batch, h * w))
    order = uniform("mask-units", (batch, rows * cols)).argsort(dim=1, stable=True)
    rank = order.argsort(dim=1).double().unflatten(1, (rows, cols))
    each = rank.repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
    return each[:, :h, :w].flatten(1) + noise


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


MASKS: dict[str, Mask] = {
    "random": random,
    "block": block,
    "grid": grid_wise,
    "multiblock": multiblock,
    "unit": unit,
}
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
