"""Tokens of patches: nearest codes, the losses against formulas, the gradient as of k-means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmae.models.codebook import BETA, Codebook, normalised, perplexity


def patches(count: int = 64, seed: int = 0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(2, count // 2, 12, dtype=torch.float64, generator=made) * 3 + 1


def book(kind: str, codes: int = 6) -> Codebook:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Codebook(12, codes, kind, width=4, hidden=8).double()


def test_nearest_against_numpy():
    model, x = book("kmeans"), patches()
    a, codes = normalised(x).numpy(), model.codes.detach().numpy()
    far = ((a[:, :, None] - codes) ** 2).sum(-1)
    assert np.array_equal(model.ids(x).numpy(), far.argmin(-1))
    loss, error, ids = model(x)
    np.testing.assert_allclose(loss.detach().numpy(), far.min(-1) / 12, rtol=1e-12)
    assert torch.equal(loss.detach(), error)
    assert torch.equal(ids, model.ids(x))


def test_the_gradient_points_at_the_mean_of_the_patches():
    model, x = book("kmeans"), patches()
    loss, _, ids = model(x)
    loss.sum().backward()
    for code in range(6):
        own = normalised(x)[ids == code]
        want = 2 / 12 * (model.codes[code].detach() - own).sum(dim=0)
        torch.testing.assert_close(model.codes.grad[code], want)


def test_vqvae_terms_and_straight_through():
    model, x = book("vqvae"), patches()
    goal = normalised(x)
    found = model.into(goal)
    codes = model.codes[model.nearest(found)]
    out = model.back(codes)
    want = (goal - out).square().mean(-1) + (1 + BETA) * (found - codes).square().mean(-1)
    loss, error, ids = model(x)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(error, (goal - model.rebuilt(ids)).square().mean(-1).detach())
    error_of = torch.autograd.grad(loss.sum(), [model.into[0].weight, model.codes])
    assert all(grad.abs().sum() > 0 for grad in error_of)
    # The codes learn by their own term alone: not from what is rebuilt.
    pull = (found.detach() - codes).square().mean(-1).sum()
    torch.testing.assert_close(error_of[1], torch.autograd.grad(pull, model.codes)[0])


@pytest.mark.parametrize("kind", ["kmeans", "vqvae"])
def test_training_lowers_the_error_below_a_mean_fill(kind):
    model, x = book(kind, 16), patches(256)
    model.begin(x.flatten(0, 1))
    optimiser = torch.optim.AdamW(model.parameters(), 0.03, weight_decay=0)
    errors = []
    for _ in range(60):
        loss, error, _ = model(x)
        errors.append(float(error.mean()))
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    assert errors[-1] < 0.85 * errors[0]
    assert errors[-1] < 0.9 * 11 / 12
    assert len(model.ids(x).unique()) >= 12


def test_begin_is_the_same_every_time_and_needs_patches():
    first, second = book("kmeans"), book("kmeans")
    for model in (first, second):
        model.begin(patches().flatten(0, 1))
    assert torch.equal(first.codes, second.codes)
    assert len(first.codes.unique(dim=0)) == 6
    with pytest.raises(ValueError, match="6 codes, but only 1 different"):
        first.begin(torch.ones(9, 12, dtype=torch.float64))


def test_perplexity():
    assert float(perplexity(torch.tensor([4, 4, 4, 4]))) == pytest.approx(4)
    assert float(perplexity(torch.tensor([9, 0, 0]))) == pytest.approx(1)


def test_unknown_kind():
    with pytest.raises(ValueError, match="kmeans, vqvae"):
        Codebook(12, 4, "kmean")
