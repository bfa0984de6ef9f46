"""Masks of several blocks and of units: shapes, exact counts, and that a sample has its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openmae.models.masking import MASKS, choose, num_kept, unit
from openmae.randomness import Rand

NEW = ("multiblock", "unit")


def rand(rows: int, first: int = 0) -> Rand:
    return Rand(seed=0, step=0, progress=0.0, first=first, rows=rows)


def hidden_map(mask, grid: tuple[int, int], ratio: float, rows: int, first: int = 0) -> Tensor:
    """(rows, h, w), True = hidden."""
    priority = mask(grid, rand(rows, first).uniform, rows, ratio)
    _, ids = choose(priority, num_kept(grid[0] * grid[1], ratio))
    away = torch.zeros(rows, grid[0] * grid[1], dtype=torch.bool)
    return away.scatter_(1, ids, True).unflatten(1, grid)


@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75, 0.9])
@pytest.mark.parametrize("grid", [(14, 14), (6, 10)])
@pytest.mark.parametrize("name", NEW)
def test_counts_are_exact_and_masks_differ(name, grid, ratio):
    away = hidden_map(MASKS[name], grid, ratio, 400)
    length = grid[0] * grid[1]
    assert (away.flatten(1).sum(1) == length - num_kept(length, ratio)).all()
    assert len(away.flatten(1).unique(dim=0)) > 1
    assert away.any(dim=0).all(), "every place is hidden in some sample"


@pytest.mark.parametrize("name", NEW)
def test_a_sample_has_its_mask_in_any_batch(name):
    whole = hidden_map(MASKS[name], (14, 14), 0.75, 16)
    part = hidden_map(MASKS[name], (14, 14), 0.75, 4, first=8)
    assert torch.equal(whole[8:12], part)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_units_are_whole_but_for_one(side):
    away = hidden_map(lambda *a: unit(*a, side=side), (16, 16), 0.6, 64)
    cells = away.unflatten(1, (-1, side)).unflatten(3, (-1, side)).sum((2, 4)).flatten(1)
    broken = ((cells > 0) & (cells < side * side)).sum(1)
    assert broken.max() <= 1
    assert (side == 1) == (broken.max() == 0), "153 of 256 patches are no whole number of units"


def test_units_at_the_edge_are_smaller():
    away = hidden_map(lambda *a: unit(*a, side=4), (6, 6), 0.5, 200)
    corner = away[:, 4:, 4:].flatten(1).sum(1)
    assert set(corner.tolist()) >= {0, 4}


def test_a_unit_larger_than_the_grid_is_refused():
    with pytest.raises(ValueError, match="larger than 4x4"):
        unit((4, 4), rand(1).uniform, 1, 0.75)


def test_few_hidden_patches_are_one_block_of_the_published_size():
    """0.12 of the area is less than one block: what is hidden lies in a rectangle of its size."""
    away = hidden_map(MASKS["multiblock"], (14, 14), 0.12, 200)
    rows, cols = away.any(2).sum(1), away.any(1).sum(1)
    assert (rows * cols).max() <= 196 * 0.2 * 1.15  # sides are rounded
    assert (rows / cols).max() < 2.2


def test_blocks_lie_together_more_than_noise():
    def neighbours(name: str) -> int:
        away = hidden_map(MASKS[name], (14, 14), 0.6, 64)
        return int((away[:, 1:] & away[:, :-1]).sum())

    assert neighbours("multiblock") > 1.3 * neighbours("random")
    assert neighbours("unit") > 1.2 * neighbours("random")
