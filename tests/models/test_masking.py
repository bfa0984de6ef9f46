"""Masks: how many patches are kept, which, and that a sample's mask is its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openmae.models.masking import MASKS, block, choose, grid_wise, num_kept, random
from openmae.randomness import Rand


def rand(rows: int, first: int = 0, seed: int = 0) -> Rand:
    return Rand(seed=seed, step=0, progress=0.0, first=first, rows=rows)


def hidden_map(mask, grid: tuple[int, int], ratio: float, batch: int, seed: int = 0) -> Tensor:
    """(batch, h, w), True = hidden."""
    priority = mask(grid, rand(batch, seed=seed).uniform, batch, ratio)
    kept, _ = choose(priority, num_kept(grid[0] * grid[1], ratio))
    hidden = torch.ones(batch, grid[0] * grid[1], dtype=torch.bool)
    return hidden.scatter_(1, kept, False).unflatten(1, grid)


def pairs(hidden: Tensor) -> int:
    """Neighbours, side by side or one above the other, that are both hidden."""
    across = hidden[:, :, 1:] & hidden[:, :, :-1]
    down = hidden[:, 1:] & hidden[:, :-1]
    return int(across.sum() + down.sum())


# How many.


@pytest.mark.parametrize(
    ("patches", "ratio", "kept"),
    [
        (196, 0.75, 49),
        (100, 0.9, 9),  # the floor of 9.999...98
        (100, 0.8, 19),  # the floor of 19.999...96
        (100, 0.75, 25),
        (196, 0.6, 78),
        (256, 0.75, 64),
        (24, 0.9, 2),
        (24, 0.5, 12),
    ],
)
def test_kept_counts(patches, ratio, kept):
    assert num_kept(patches, ratio) == kept == int(patches * (1 - ratio))


@pytest.mark.parametrize(("patches", "ratio", "kept"), [(36, 0.75, 9), (36, 8 / 9, 4)])
def test_kept_counts_of_a_grid(patches, ratio, kept):
    assert num_kept(patches, ratio, "grid") == kept


@pytest.mark.parametrize(("patches", "ratio"), [(16, 0.95), (16, 1.0), (16, 0.0), (16, -0.5)])
def test_at_least_one_kept_and_one_hidden(patches, ratio):
    with pytest.raises(ValueError, match="at least one must be kept and one hidden"):
        num_kept(patches, ratio)


@pytest.mark.parametrize("kept", [1, 6, 23])
def test_choose_splits_by_priority(kept):
    priority = rand(5).uniform("mask", (5, 24))
    ids, hidden = choose(priority, kept)
    assert ids.shape == (5, kept)
    both = torch.cat([ids, hidden], dim=1)
    assert torch.equal(both.sort(dim=1).values, torch.arange(24).expand(5, -1))
    assert (priority.gather(1, ids).max(dim=1).values < priority.gather(1, hidden).amin(1)).all()


def test_choose_breaks_ties_by_position():
    kept, hidden = choose(torch.zeros(2, 6), 2)
    assert kept.tolist() == [[0, 1], [0, 1]]
    assert hidden.tolist() == [[2, 3, 4, 5], [2, 3, 4, 5]]


# Random.


def test_random_keeps_the_smallest_noise():
    noise = rand(4).uniform("mask", (4, 24))
    priority = random((4, 6), rand(4).uniform, 4, 0.75)
    assert torch.equal(priority, noise)
    kept, _ = choose(priority, 6)
    for sample, ids in zip(noise, kept, strict=True):
        assert set(ids.tolist()) == set(sample.sort().indices[:6].tolist())


def test_random_hides_every_patch_equally_often():
    share = hidden_map(random, (4, 6), 0.75, 4000).float().mean(dim=0)
    assert (share - 0.75).abs().max() < 0.035  # 5 standard errors
    assert share.mean() == pytest.approx(0.75, abs=1e-6)


# Block-wise.


@pytest.mark.parametrize(("grid", "ratio"), [((14, 14), 0.5), ((14, 14), 0.75), ((8, 20), 0.6)])
def test_block_hides_neighbours_together(grid, ratio):
    blocks, scattered = (hidden_map(mask, grid, ratio, 200) for mask in (block, random))
    assert torch.equal(blocks.sum((1, 2)), scattered.sum((1, 2)))
    sides = grid[0] * (grid[1] - 1) + (grid[0] - 1) * grid[1]
    assert pairs(scattered) / (200 * sides) == pytest.approx(ratio**2, abs=0.02)
    assert pairs(blocks) / (200 * sides) > 0.5 * (ratio**2 + ratio)  # half way to one solid piece


def test_block_hides_whole_rectangles_first():
    priority = block((14, 14), rand(50).uniform, 50, 0.5).unflatten(1, (14, 14))
    rank = priority.floor()
    for sample in rank:
        rows, cols = (sample == sample.max()).nonzero().unbind(1)
        height, width = rows.max() - rows.min() + 1, cols.max() - cols.min() + 1
        assert height * width == len(rows)  # solid
        assert len(rows) >= 12  # 16 of 196 patches, up to rounding of the sides
    earliest = (rank == rank.amax((1, 2), keepdim=True)).flatten(1)
    hidden = hidden_map(block, (14, 14), 0.5, 50).flatten(1)
    whole = earliest.sum(1) <= 98
    assert whole.all()
    assert hidden[earliest].all()


@pytest.mark.parametrize("grid", [(14, 14), (4, 6), (2, 24), (1, 16), (5, 5)])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 0.9])
def test_block_hides_the_exact_count(grid, ratio):
    hidden = hidden_map(block, grid, ratio, 16)
    length = grid[0] * grid[1]
    assert (hidden.sum((1, 2)) == length - int(length * (1 - ratio))).all()
    assert len(hidden.flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize("name", ["random", "block"])
def test_a_mask_does_not_depend_on_the_batch_around_it(name, ratio):
    mask, batch = MASKS[name], rand(24, first=40)
    whole = mask((14, 14), batch.uniform, 24, ratio)
    for size in (1, 8):
        for start in range(0, 24, size):
            part = mask((14, 14), batch.slice(start, start + size).uniform, size, ratio)
            assert torch.equal(part, whole[start : start + size])
    assert len(whole.unique(dim=0)) == 24


# Grid-wise.


@pytest.mark.parametrize(
    ("grid", "n", "ratio"), [((4, 6), 2, 0.75), ((14, 14), 2, 0.75), ((6, 9), 3, 8 / 9)]
)
def test_grid_keeps_one_of_every_cell(grid, n, ratio):
    priority = grid_wise(grid, rand(3).uniform, 3, ratio)
    kept, _ = choose(priority, num_kept(grid[0] * grid[1], ratio, "grid"))
    visible = torch.zeros(3, grid[0] * grid[1], dtype=torch.long).scatter_(1, kept, 1)
    cells = visible.reshape(3, grid[0] // n, n, grid[1] // n, n)
    assert (cells.sum((2, 4)) == 1).all()
    assert (cells[:, :, 0, :, 0] == 1).all()


@pytest.mark.parametrize("grid", [(4, 5), (5, 4), (7, 7)])
def test_grid_needs_even_sides(grid):
    with pytest.raises(ValueError, match="sides that divide by 2"):
        grid_wise(grid, rand(1).uniform, 1, 0.75)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.7, 0.9])
def test_grid_needs_its_own_ratios(ratio):
    with pytest.raises(ValueError, match=r"hides 1 - 1/n\^2 of the patches"):
        grid_wise((4, 4), rand(1).uniform, 1, ratio)
    with pytest.raises(ValueError, match=r"hides 1 - 1/n\^2 of the patches"):
        num_kept(16, ratio, "grid")


def test_grid_of_ratio_one_is_refused():
    with pytest.raises(ValueError, match=r"1\.0"):
        num_kept(16, 1.0, "grid")
