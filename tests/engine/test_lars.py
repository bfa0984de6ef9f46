"""LARS against a recurrence in numpy and a first step by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmae.engine.lars import LARS


def test_a_first_step_by_hand():
    weight = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)  # norm 5
    bias = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    weight.grad = torch.tensor([[0.0, 2.0]], dtype=torch.float64)  # norm 2
    bias.grad = torch.tensor([0.5], dtype=torch.float64)
    LARS([weight, bias], lr=10.0).step()
    # 0.001 * 5 / 2 = 0.0025 of the gradient, times 10; the bias takes the plain step
    np.testing.assert_allclose(weight.detach().numpy(), [[3.0, 4.0 - 0.05]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(bias.detach().numpy(), [-4.0], rtol=0, atol=1e-15)


def test_the_decay_is_inside_the_norm_by_hand():
    weight = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    weight.grad = torch.zeros(1, 2, dtype=torch.float64)
    LARS([weight], lr=1.0, weight_decay=0.1, trust=0.01).step()
    # d = 0.1 p, |d| = 0.5: ratio 0.01 * 5 / 0.5 = 0.1, so p shrinks by 0.01 of itself
    np.testing.assert_allclose(weight.detach().numpy(), [[2.97, 3.96]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_twenty_steps_are_the_recurrence(decay):
    rng = np.random.default_rng(0)
    shapes = [(3, 5), (5,), (2, 3, 4), ()]
    values = [rng.normal(size=s) for s in shapes]
    tensors = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    optimizer = LARS(tensors, lr=0.0, momentum=0.9, weight_decay=decay, trust=0.001)
    buffers = [np.zeros(s) for s in shapes]
    for step in range(20):
        lr = 0.5 * (step + 1)
        optimizer.param_groups[0]["lr"] = lr
        for i, tensor in enumerate(tensors):
            gradient = rng.normal(size=shapes[i])
            tensor.grad = torch.tensor(gradient, dtype=torch.float64)
            d = gradient
            if gradient.ndim > 1:
                d = gradient + decay * values[i]
                d = d * 0.001 * np.sqrt((values[i] ** 2).sum()) / np.sqrt((d**2).sum())
            buffers[i] = 0.9 * buffers[i] + d
            values[i] = values[i] - lr * buffers[i]
        optimizer.step()
    for tensor, value in zip(tensors, values, strict=True):
        np.testing.assert_allclose(tensor.detach().numpy(), value, rtol=1e-12, atol=1e-12)


def test_weights_and_gradients_of_zero_are_not_scaled():
    zero = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    zero.grad = torch.ones(2, 2, dtype=torch.float64)
    still = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    still.grad = torch.zeros(2, 2, dtype=torch.float64)
    untouched = torch.ones(2, dtype=torch.float64, requires_grad=True)
    LARS([zero, still, untouched], lr=0.1).step()
    assert torch.equal(zero, torch.full((2, 2), -0.1, dtype=torch.float64))
    assert torch.equal(still, torch.ones(2, 2, dtype=torch.float64))
    assert torch.equal(untouched, torch.ones(2, dtype=torch.float64))
