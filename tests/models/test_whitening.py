"""Whitening: its formula, what it cannot raise, and several ranks."""

from __future__ import annotations

import pytest
import torch
from gloo import in_ranks
from torch import Tensor

from openmae.models.whitening import SHRINK, whiten


def uneven(rows: int = 64, width: int = 8) -> Tensor:
    """Rows with a constant part, whose directions have variances from 1 down to a millionth."""
    made = torch.Generator().manual_seed(0)
    values = torch.randn(rows, width, generator=made, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(width, width, generator=made, dtype=torch.float64))[0]
    return 5 + values @ torch.diag(torch.logspace(0, -3, width, dtype=torch.float64)) @ turn


def by_eigenvectors(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / len(rows)
    width = len(covariance)
    mean = covariance.trace() / width
    covariance = (1 - SHRINK) * covariance + SHRINK * mean * torch.eye(width, dtype=rows.dtype)
    values, vectors = torch.linalg.eigh(covariance)
    return centred @ (vectors * values.rsqrt()) @ vectors.T


@pytest.mark.parametrize("width", [2, 8, 32, 256])
def test_by_its_formula(width):
    rows = uneven(64, width)  # of 256 directions 193 have no variance at all
    assert torch.allclose(whiten(rows), by_eigenvectors(rows), atol=1e-6)
    single = whiten(rows.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), by_eigenvectors(rows), atol=1e-3)


def test_directions_have_variance_one_down_to_the_shrinkage():
    rows = uneven(width=8)
    found = whiten(rows)
    assert torch.allclose(found.mean(0), torch.zeros(8, dtype=torch.float64), atol=1e-12)
    before = torch.linalg.eigvalsh((rows - rows.mean(0)).T @ (rows - rows.mean(0)) / len(rows))
    wanted = before / ((1 - SHRINK) * before + SHRINK * before.mean())
    after = torch.linalg.eigvalsh(found.T @ found / len(found))
    assert torch.allclose(after, wanted, atol=1e-6)
    assert before[-1] / before[-3] > 5 > 1.2 > after[-1] / after[-3]


def test_rows_that_are_all_alike_become_zero():
    found = whiten(torch.full((6, 4), 3.0))
    assert torch.equal(found, torch.zeros(6, 4))


def test_half_precision_is_whitened_in_single():
    rows = uneven().to(torch.bfloat16)
    assert torch.equal(whiten(rows), whiten(rows.float()))


def test_it_has_no_gradients():
    assert not whiten(uneven().requires_grad_()).requires_grad


def test_two_ranks_are_one(tmp_path):
    rows = uneven()
    found = in_ranks(2, lambda r: {"x": whiten(rows.chunk(2)[r])}, tmp_path)
    both = torch.cat([one["x"] for one in found])
    assert torch.allclose(both, whiten(rows), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(both[:32], whiten(rows[:32]), atol=1e-3)
