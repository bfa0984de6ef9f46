"""Sinkhorn-Knopp centring: published numbers, its formula, extremes, and several ranks."""

from __future__ import annotations

import math

import pytest
import torch
from gloo import in_ranks
from torch import Tensor

from openmae.methods.sinkhorn import sinkhorn


def made() -> Tensor:
    """Logits (5, 3) that need no generator."""
    i = torch.arange(15, dtype=torch.float64).view(5, 3)
    return torch.sin(1.7 * i) + 0.1 * torch.cos(i * i)


OF_LIGHTLY = {
    0.05: [
        [6.695878013474099e-10, 0.9999999993271778, 3.2343928423784523e-12],
        [1.073068401108539e-18, 1.9210582882056018e-05, 0.999980789417118],
        [4.644582057405057e-16, 5.1184577476124855e-14, 0.9999999999999485],
        [0.9999236573709852, 1.7286178369359466e-11, 7.634261172873301e-05],
        [0.9999999981413852, 1.8586148152448396e-09, 5.69760540499735e-17],
    ],
    0.5: [
        [0.08003183300788433, 0.8885494729539105, 0.03141869403820498],
        [0.014020868045227855, 0.39816750954315694, 0.5878116224116151],
        [0.038467351909627204, 0.08266299604666902, 0.8788696520437038],
        [0.728882423542879, 0.08211647446526145, 0.18900110199185965],
        [0.8363005718074813, 0.15041146328901897, 0.013287964903499799],
    ],
}
"""The function sinkhorn of lightly 1.6.0 (lightly/loss/swav_loss.py), 3 iterations."""


@pytest.mark.parametrize("temperature", OF_LIGHTLY)
def test_it_is_that_of_lightly(temperature):
    wanted = torch.tensor(OF_LIGHTLY[temperature], dtype=torch.float64)
    assert torch.allclose(sinkhorn(made(), temperature), wanted, rtol=1e-10, atol=1e-20)


def test_by_its_formula():
    shares = [[math.exp(v / 0.3) for v in row] for row in made().tolist()]
    for _ in range(4):
        columns = [sum(row[k] for row in shares) for k in range(3)]
        shares = [[v / c for v, c in zip(row, columns, strict=True)] for row in shares]
        shares = [[v / sum(row) for v in row] for row in shares]
    found = sinkhorn(made(), 0.3, iterations=4)
    assert torch.allclose(found, torch.tensor(shares, dtype=torch.float64), rtol=1e-12)


def test_all_prototypes_come_to_be_used_alike():
    """Also one that all rows prefer, as where a network is about to collapse."""
    logits = torch.sin(torch.arange(24.0)).view(8, 3)
    logits[:, 0] += 5
    assert (logits / 0.5).softmax(1).mean(0)[0] > 0.99
    assert torch.allclose(sinkhorn(logits, 0.5, iterations=300).mean(0), torch.full((3,), 1 / 3))
    assert torch.allclose(sinkhorn(logits, 0.5).sum(1), torch.ones(8))


def test_low_temperatures_stay_finite():
    """exp(-1 / 0.001) is 0 in float32, and so are the sums of such a row and column."""
    found = sinkhorn(torch.tensor([[1.0, 0.0, -1.0], [-1.0, -1.0, -0.9], [0.0, -1.0, -1.0]]), 1e-3)
    assert found.isfinite().all()
    assert torch.allclose(found.sum(1), torch.ones(3))


def test_rows_without_weight_take_no_part():
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    found = sinkhorn(made(), 0.1, weight)
    assert torch.equal(found[weight > 0], sinkhorn(made()[weight > 0], 0.1))
    assert not torch.allclose(found, sinkhorn(made(), 0.1))
    assert sinkhorn(made(), 0.1, 0 * weight).isfinite().all()


def test_two_ranks_are_one(tmp_path):
    logits = torch.sin(torch.arange(40, dtype=torch.float64)).view(10, 4)
    weight = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1, 0, 1], dtype=torch.float64)

    def of_rank(r: int) -> dict[str, Tensor]:
        own, told = logits.chunk(2)[r], weight.chunk(2)[r]
        return {"all": sinkhorn(own, 0.1), "some": sinkhorn(own, 0.1, told)}

    found = in_ranks(2, of_rank, tmp_path)
    for name, told in (("all", None), ("some", weight)):
        both = torch.cat([one[name] for one in found])
        assert torch.allclose(both, sinkhorn(logits, 0.1, told), rtol=1e-12)
    assert not torch.allclose(found[0]["all"], sinkhorn(logits[:5], 0.1))
