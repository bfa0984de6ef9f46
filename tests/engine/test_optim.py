"""AdamW and its schedule: Table 8 by hand, and a step that is skipped changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import openmae
from openmae.engine.optim import Schedule, absolute_lr, adamw, param_groups


def small_mae() -> nn.Module:
    torch.manual_seed(0)
    return openmae.MAE(
        encoder="vit_tiny_patch16_224",
        image_size=16,
        patch_size=8,
        encoder_args={"embed_dim": 16, "depth": 1, "num_heads": 2},
        decoder_dim=16,
        decoder_depth=1,
        decoder_heads=2,
    )


# The learning rate.


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (1, 0.2),
        (5, 1.0),
        (9, 1.8),
        (10, 2.0),
        (30, 0.1 + 1.9 * (1 + math.cos(math.pi / 4)) / 2),
        (50, 1.05),
        (70, 0.1 + 1.9 * (1 - math.cos(math.pi / 4)) / 2),
        (90, 0.1),
        (200, 0.1),
    ],
)
def test_rate_by_hand(step, rate):
    """Ten steps up to 2, then eighty along half a cosine down to 0.1."""
    assert Schedule(peak=2.0, end=0.1, warmup=10, total=90)(step) == pytest.approx(rate, abs=1e-15)


def test_rate_without_warmup():
    schedule = Schedule(peak=1.0, end=0.0, warmup=0, total=4)
    want = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0]
    assert [schedule(step) for step in range(5)] == pytest.approx(want, abs=1e-15)


def test_rate_rises_then_falls():
    schedule = Schedule(peak=1.0, end=0.0, warmup=7, total=50)
    rates = [schedule(step) for step in range(51)]
    assert rates[:8] == sorted(rates[:8])
    assert rates[7:] == sorted(rates[7:], reverse=True)
    assert max(rates) == rates[7] == 1.0


def test_schedule_of_warmup_only():
    schedule = Schedule(peak=1.0, end=0.0, warmup=5, total=5)
    assert [schedule(step) for step in (0, 4)] == [0.0, 0.8]
    assert schedule(5) == 1.0


@pytest.mark.parametrize(
    ("base", "batch", "rate"), [(1.5e-4, 4096, 2.4e-3), (1.5e-4, 256, 1.5e-4), (2e-3, 128, 1e-3)]
)
def test_absolute_rate(base, batch, rate):
    assert absolute_lr(base, batch) == pytest.approx(rate, rel=1e-15)


# The groups.


def test_groups():
    method = small_mae()
    decayed, exempt = param_groups(method, 0.05)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.05, 0.0)
    yes, no = ({name for name, _ in group["params"]} for group in (decayed, exempt))
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert yes | no == trained.keys()
    assert not yes & no
    assert {n.rsplit(".", 1)[-1] for n in yes} == {"weight", "cls_token", "mask_token"}
    assert {n.rsplit(".", 1)[-1] for n in no} == {"weight", "bias"}
    assert all("norm" in n for n in no if n.endswith("weight"))
    assert not any("norm" in n for n in yes)
    assert all(p.ndim == (1 if n in no else p.ndim) for n, p in trained.items())


def test_tokens_are_decayed_and_positions_in_no_group():
    method = small_mae()
    decayed, exempt = param_groups(method, 0.05)
    names = [n for n, _ in [*decayed["params"], *exempt["params"]]]
    for token in ("cls_token", "mask_token"):
        assert sum(n.endswith(token) for n, _ in decayed["params"]) == 1
    assert not any("pos" in n for n in names)
    # they are there, fixed: sine-cosine tables
    assert any("pos" in n for n in method.state_dict())


def test_optimizer_has_the_groups():
    optimizer = adamw(small_mae(), 1e-3, (0.9, 0.95), 0.05)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.05, 0.0]
    assert all((g["lr"], g["betas"]) == (1e-3, (0.9, 0.95)) for g in optimizer.param_groups)
    assert all(g["fused"] and g["param_names"] for g in optimizer.param_groups)


def test_a_method_without_biases():
    optimizer = adamw(nn.Linear(3, 2, bias=False), 1e-3, (0.9, 0.95), 0.05)
    assert len(optimizer.param_groups) == 1


# The step.


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3)).double()


def backward(method: nn.Module, step: int) -> None:
    inputs = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    method(inputs).square().sum().backward()


def test_fused_equals_the_plain_one():
    fused, plain = network(), network()
    optimizer = adamw(fused, 1e-2, (0.9, 0.95), 0.05)
    groups = param_groups(plain, 0.05)
    other = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), fused=False, foreach=False)
    start = [p.detach().clone() for p in fused.parameters()]
    for step in range(8):
        for method, steps in ((fused, optimizer), (plain, other)):
            backward(method, step)
            steps.step()
            steps.zero_grad()
    for a, b, before in zip(fused.parameters(), plain.parameters(), start, strict=True):
        assert (a - b).abs().max() <= 1e-12
        assert (a - before).abs().max() > 1e-3


def everything(method: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [v for p in method.parameters() for _, v in sorted(optimizer.state[p].items())]
    return [t.detach().clone() for t in [*method.parameters(), *moments]]


def test_a_skipped_step_changes_nothing():
    method = network()
    optimizer = adamw(method, 1e-2, (0.9, 0.95), 0.05)
    for step in range(3):
        backward(method, step)
        optimizer.step()
        optimizer.zero_grad()
    before = everything(method, optimizer)
    assert len(before) == 6 + 18
    for found_inf, changed in ((1.0, False), (0.0, True)):
        backward(method, 9)
        if found_inf:
            method[0].weight.grad[0, 0] = math.nan
        optimizer.found_inf = torch.tensor(found_inf)
        optimizer.step()
        optimizer.zero_grad()
        same = [
            torch.equal(a, b) for a, b in zip(everything(method, optimizer), before, strict=True)
        ]
        assert not any(same) if changed else all(same)


def test_a_skipped_first_step_is_as_if_it_had_not_been():
    results = []
    for skips in (0, 2):
        method = network()
        optimizer = adamw(method, 1e-2, (0.9, 0.95), 0.05)
        for step in range(-skips, 3):
            backward(method, step)
            optimizer.found_inf = torch.tensor(float(step < 0))
            optimizer.step()
            optimizer.zero_grad()
        results.append(everything(method, optimizer))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
