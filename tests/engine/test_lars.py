"""LARS against its formula in float64, and against plain momentum where it has none of its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from openmae.engine.lars import LARS


def test_a_matrix_follows_the_formula():
    rng = np.random.default_rng(0)
    p, u = rng.normal(size=(3, 4)), np.zeros((3, 4))
    parameter = nn.Parameter(torch.from_numpy(p.copy()))
    optimizer = LARS([parameter], lr=0.3, momentum=0.9, weight_decay=0.1, trust=0.001)
    for _ in range(5):
        gradient = rng.normal(size=(3, 4))
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        whole = gradient + 0.1 * p
        u = 0.9 * u + 0.001 * np.linalg.norm(p) / np.linalg.norm(whole) * whole
        p = p - 0.3 * u
        np.testing.assert_allclose(parameter.detach().numpy(), p, rtol=1e-12)


def test_a_vector_is_plain_momentum_without_decay():
    ours, theirs = (nn.Parameter(torch.arange(3.0)) for _ in range(2))
    first = LARS([ours], lr=0.2, weight_decay=0.5)
    second = torch.optim.SGD([theirs], lr=0.2, momentum=0.9)
    for step in range(4):
        for parameter in (ours, theirs):
            parameter.grad = torch.tensor([1.0, -2.0, step])
        first.step()
        second.step()
    torch.testing.assert_close(ours, theirs)


def test_a_zero_matrix_or_gradient_does_not_divide():
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([zero, still], lr=1.0)
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optimizer.step()
    assert torch.equal(zero.detach(), -torch.ones(2, 2))
    assert torch.equal(still.detach(), torch.ones(2, 2))


def test_a_step_by_hand():
    parameter = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    parameter.grad = torch.tensor([[0.0, 2.0]])
    LARS([parameter], lr=10.0).step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([[3.0, 4.0 - 10 * 0.001 * 5]]))
