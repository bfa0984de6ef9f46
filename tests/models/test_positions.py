"""The frozen sin-cos table against its formula, written out in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from openmae.models.positions import sincos_2d


def by_hand(dim: int, grid: tuple[int, int]) -> list[list[float]]:
    """[sin(col), cos(col), sin(row), cos(row)], dim/4 each, omega_i = 10000^(-i / (dim/4))."""
    quarter = dim // 4
    omega = [1.0 / 10000.0 ** (i / quarter) for i in range(quarter)]
    table = []
    for row in range(grid[0]):
        for col in range(grid[1]):
            vector = [math.sin(col * w) for w in omega] + [math.cos(col * w) for w in omega]
            vector += [math.sin(row * w) for w in omega] + [math.cos(row * w) for w in omega]
            table.append(vector)
    return table


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("dim", "grid"), [(4, (2, 3)), (32, (4, 6)), (64, (7, 3)), (768, (14, 14))]
)
def test_formula(float64, dim, grid):
    table = sincos_2d(dim, grid)
    assert table.dtype == torch.float64
    want = torch.tensor(by_hand(dim, grid), dtype=torch.float64)
    torch.testing.assert_close(table, want, rtol=0, atol=1e-14)


def test_float32_is_the_rounded_float64(float64):
    exact = sincos_2d(64, (5, 9))
    torch.set_default_dtype(torch.float32)
    table = sincos_2d(64, (5, 9))
    assert table.dtype == torch.float32
    assert torch.equal(table, exact.float())


def test_layout_column_first():
    table = sincos_2d(16, (3, 5)).unflatten(0, (3, 5))
    first_half, second_half = table[..., :8], table[..., 8:]
    assert torch.equal(first_half, first_half[:1].expand_as(first_half))  # the same in every row
    assert torch.equal(second_half, second_half[:, :1].expand_as(second_half))  # ... column
    assert not torch.equal(first_half[:, 0], first_half[:, 1])
    assert not torch.equal(second_half[0], second_half[1])
    origin = torch.tensor([0.0] * 4 + [1.0] * 4).repeat(2)  # sin(0), cos(0), twice
    assert torch.equal(table[0, 0], origin)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_prefix_rows_are_zero(prefix):
    table = sincos_2d(32, (4, 6), prefix)
    assert table.shape == (prefix + 24, 32)
    assert not table[:prefix].any()
    assert torch.equal(table[prefix:], sincos_2d(32, (4, 6)))


def test_every_position_is_different():
    table = sincos_2d(32, (8, 12))
    distance = torch.cdist(table.double(), table.double())
    assert distance[~torch.eye(96, dtype=torch.bool)].min() > 0.1


def test_width_must_divide_by_four():
    with pytest.raises(ValueError, match="divides by 4, not 30"):
        sincos_2d(30, (2, 2))
