"""Two-dimensional sin-cos position tables (section A.1 of the paper), for any grid."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sincos_2d(dim: int, grid: tuple[int, int], num_prefix: int = 0) -> Tensor:
    """The frozen table (num_prefix + h*w, dim): zero rows for prefix tokens, then patches in row-
    major order.

    The layout is [sin(col), cos(col), sin(row), cos(row)], dim/4 each, with omega_i = 10000^(-i /
    (dim/4)); made in float64 and then cast, as published.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sin-cos table needs a width that divides by 4, not {dim}")
    h, w = grid
    omega = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows = torch.arange(h, dtype=torch.float64)[:, None] * omega
    cols = torch.arange(w, dtype=torch.float64)[:, None] * omega
    row_part = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(h, w, -1)
    col_part = torch.cat([cols.sin(), cols.cos()], dim=1)[None].expand(h, w, -1)
    table = torch.cat([col_part, row_part], dim=2).reshape(h * w, dim)
    return torch.cat([torch.zeros(num_prefix, dim, dtype=torch.float64), table]).to(
        torch.get_default_dtype()
    )


def resize_positions(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], num_prefix: int = 0
) -> Tensor:
    """A position table (1, num_prefix + h*w, D) for another grid: patch rows by bicubic
    interpolation in two dimensions (align_corners False, no antialiasing, as published for
    fine-tuning), rows of prefix tokens as they are.
    """
    if old == new:
        return table
    prefix, patches = table[:, :num_prefix], table[:, num_prefix:]
    plane = patches.reshape(1, *old, -1).permute(0, 3, 1, 2).float()
    plane = F.interpolate(plane, size=new, mode="bicubic", align_corners=False)
    rows = plane.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    return torch.cat([prefix, rows], dim=1)


class GridTables(nn.Module):
    """The frozen tables of further grids. They are functions of the grid, so no file keeps them."""

    def __init__(self, grids: Iterable[tuple[int, int]], dim: int, num_prefix: int = 0) -> None:
        super().__init__()
        for grid in grids:
            table = sincos_2d(dim, grid, num_prefix)
            self.register_buffer(f"grid_{grid[0]}x{grid[1]}", table, persistent=False)

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """The table (num_prefix + h*w, dim) of one of the grids."""
        table: Tensor = getattr(self, f"grid_{grid[0]}x{grid[1]}")
        return table
