"""BatchNorm in one process: torch's own, and what torch's lacks. Ranks: test_ranks_batch.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from openmae.models.batchnorm import BatchNorm, head
from openmae.models.collapse import effective_rank, spread

SOUND = torch.tensor(0.0)


@pytest.mark.parametrize("affine", [True, False])
def test_as_torch_in_training_and_evaluation(affine):
    ours = BatchNorm(6, affine=affine).double()
    torchs = nn.BatchNorm1d(6, affine=affine).double()
    if affine:
        nn.init.uniform_(torchs.weight)
        nn.init.uniform_(torchs.bias)
    ours.load_state_dict(torchs.state_dict())
    for seed in range(3):
        made = torch.Generator().manual_seed(seed)
        x = torch.randn(7, 6, generator=made, dtype=torch.float64) * 3 + 1
        results = []
        for norm in (ours, torchs):
            own = x.clone().requires_grad_()
            out = norm(own)
            out.pow(3).sum().backward()
            results.append((out, own.grad))
        ours.commit(SOUND)
        assert torch.allclose(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
        assert torch.allclose(results[0][1], results[1][1], rtol=1e-9, atol=1e-11)
    for name, value in torchs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, rtol=1e-12), name
    before = {n: v.clone() for n, v in ours.state_dict().items()}
    assert torch.allclose(ours.eval()(x), torchs.eval()(x), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(v, before[n]) for n, v in ours.state_dict().items())


def test_what_is_not_finite_does_not_stay():
    norm = BatchNorm(3)
    norm(torch.randn(4, 3))
    norm.commit(SOUND)
    before = {n: v.clone() for n, v in norm.state_dict().items()}
    bad = torch.randn(4, 3)
    bad[1, 2] = float("nan")
    assert norm(bad).isnan().any()
    norm.commit(SOUND)
    assert all(torch.equal(v, before[n]) for n, v in norm.state_dict().items())


def test_a_skipped_step_moves_nothing_and_two_batches_move_as_in_torch():
    ours, torchs = BatchNorm(5).double(), nn.BatchNorm1d(5).double()
    before = {n: v.clone() for n, v in ours.state_dict().items()}
    batches = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours(batches[0])
    assert all(torch.equal(v, before[n]) for n, v in ours.state_dict().items())
    ours.commit(torch.tensor(1.0))
    assert all(torch.equal(v, before[n]) for n, v in ours.state_dict().items())
    for batch in batches[1:]:
        ours(batch)
        torchs(batch)
    ours.commit(SOUND)
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    for name, value in torchs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, rtol=1e-12), name


def test_low_precision_is_computed_in_float32():
    norm, x = BatchNorm(4), torch.randn(64, 4) * 0.01 + 100
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x.bfloat16())
    assert out.dtype == torch.bfloat16
    wanted = nn.BatchNorm1d(4)(x.bfloat16().float())
    assert torch.allclose(out.float(), wanted, atol=0.02)


def test_one_row_is_refused():
    with pytest.raises(ValueError, match="two images"):
        BatchNorm(3)(torch.randn(1, 3))


def test_head():
    kinds = [type(layer).__name__ for layer in head([8, 16, 16, 4])]
    hidden = ["Linear", "BatchNorm", "ReLU"]
    assert kinds == [*hidden, *hidden, "Linear", "BatchNorm"]
    assert not head([8, 4])[-1].affine
    assert [type(layer).__name__ for layer in head([8, 4], last_norm=False)] == ["Linear"]
    assert all(layer.bias is None for layer in head([8, 16, 4]) if isinstance(layer, nn.Linear))


def test_collapse():
    same = torch.ones(10, 6)
    even = torch.eye(6).repeat(5, 1)
    line = torch.linspace(-1, 1, 12)[:, None] * torch.ones(1, 6)
    assert spread(same) == pytest.approx(0, abs=1e-6)
    assert effective_rank(same) == pytest.approx(0, abs=1e-6)
    assert effective_rank(line) == pytest.approx(1, abs=1e-4)
    assert effective_rank(even) == pytest.approx(5, abs=1e-4)
    wide = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    assert effective_rank(wide) == pytest.approx(_by_eigenvalues(wide), rel=1e-4)
    assert spread(torch.randn(500, 32)) == pytest.approx(1, abs=0.05)


def _by_eigenvalues(rows: torch.Tensor) -> float:
    values = torch.linalg.eigvalsh(torch.cov(rows.T.double()))
    return float(values.sum() ** 2 / values.square().sum())
