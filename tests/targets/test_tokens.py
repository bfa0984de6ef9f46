"""Tokens as a target: ids of the codebook, cross-entropy against its formula."""

from __future__ import annotations

import math

import pytest
import torch

from openmae.errors import UsageError
from openmae.targets.tokens import Tokens


def test_values_are_the_ids_and_nothing_is_trained():
    target = Tokens((2, 2), 3, codes=7)
    x = torch.randn(2, 5, 12, generator=torch.manual_seed(0))
    ids = target.values(x, x, x)
    assert torch.equal(ids, target.codebook.ids(x))
    assert target.width == 7
    assert not any(p.requires_grad for p in target.parameters())
    assert "codebook.codes" in target.state_dict()


def test_cross_entropy():
    target = Tokens((2, 2), 3, codes=3)
    pred = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    ids = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 0]])
    loss = target.loss(pred, ids)
    for i in range(2):
        for j in range(4):
            row = pred[i, j].tolist()
            want = math.log(sum(map(math.exp, row))) - row[ids[i, j]]
            assert float(loss[i, j]) == pytest.approx(want, rel=1e-12)
    half = target.loss(pred.bfloat16(), ids)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss.float(), rtol=0, atol=0.02)


def test_the_constant_predictor_has_the_logarithm_of_the_codes():
    target = Tokens((2, 2), 3, codes=8)
    loss = target.loss(torch.zeros(1, 2, 8), torch.tensor([[0, 5]]))
    torch.testing.assert_close(loss, torch.full((1, 2), math.log(8)))


def test_impossible():
    with pytest.raises(UsageError, match="kmeans, vqvae"):
        Tokens((2, 2), 3, kind="bpe")
