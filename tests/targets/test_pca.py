"""The basis of principal components against NumPy's singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmae.errors import UsageError
from openmae.targets.pca import PCA, principal


def patches(count: int = 400) -> torch.Tensor:
    draws = torch.randn(count, 12, dtype=torch.float64, generator=torch.manual_seed(3))
    mixed = draws @ torch.randn(12, 12, dtype=torch.float64, generator=torch.manual_seed(4))
    return mixed + torch.arange(12)


def test_against_numpy():
    x = patches()
    mean, basis = principal(x, 5)
    a = x.numpy()
    np.testing.assert_allclose(mean.numpy(), a.mean(0), atol=1e-12)
    _, _, rows = np.linalg.svd(a - a.mean(0), full_matrices=False)
    for got, want in zip(basis.numpy().T, rows, strict=False):
        sign = np.sign(want[np.abs(want).argmax()])
        np.testing.assert_allclose(got, sign * want, atol=1e-10)


def test_values_and_loss():
    target = PCA((2, 2), 3, components=5).double()
    target.fit(patches())
    x = patches(8).unflatten(0, (2, 4))
    values = target.values(x, torch.empty(0), torch.empty(0))
    assert values.shape == (2, 4, 5)
    torch.testing.assert_close(values, (x - target.mean) @ target.basis, rtol=0, atol=1e-12)
    loss = target.loss(torch.zeros_like(values), values)
    torch.testing.assert_close(loss, values.square().mean(-1))
    assert set(target.state_dict()) == {"mean", "basis"}  # a checkpoint holds what it needs


def test_all_components_keep_all_of_a_patch():
    target = PCA((2, 2), 3).double()
    assert target.width == 12
    target.fit(patches())
    x = patches(6)[None]
    back = target.values(x, x, x) @ target.basis.T + target.mean
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)


def test_the_default_is_the_papers():
    assert PCA((16, 16), 3).width == 96


def test_in_single_precision_under_autocast():
    target = PCA((2, 2), 3, components=5)
    x = patches(8).float()[None]
    target.fit(x[0])
    with torch.autocast("cpu", torch.bfloat16):
        values = target.values(x, x, x)
    assert values.dtype == torch.float32
    assert torch.equal(values, (x - target.mean) @ target.basis)


def test_impossible_ones():
    with pytest.raises(UsageError, match="13 components: a patch has 12 values"):
        PCA((2, 2), 3, components=13)
    with pytest.raises(ValueError, match="two patches"):
        principal(patches(1), 3)
