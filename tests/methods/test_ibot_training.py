"""iBOT: continuation, ranks, and learning on a handful of images."""

from __future__ import annotations

import copy
from typing import Any

import torch
from gloo import in_ranks
from ibot_models import ROWS, SOUND, apart, batch, rand, tiny
from torch import Tensor

from openmae.methods.ibot import IBOT


def adam(method: IBOT, lr: float = 1e-2) -> Any:
    return torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr)


def train(method: IBOT, first: int, steps: int, optimizer: Any, data: Any = batch) -> list[float]:
    losses = []
    for step in range(first, first + steps):
        out = method(data(step), rand(step, step / 100, first=step * ROWS))
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        method.after_step(rand(step, step / 100), SOUND)
        losses.append(out["loss"].item())
    return losses


def test_state_is_all_that_is_needed_to_go_on():
    method = tiny(norm_last_layer=False)
    optimizer = adam(method)
    train(method, 0, 3, optimizer)
    state, of_optimizer = (copy.deepcopy(x.state_dict()) for x in (method, optimizer))
    losses = train(method, 3, 3, optimizer)
    again = tiny(7, norm_last_layer=False)
    again.load_state_dict(state)
    fresh = adam(again)
    fresh.load_state_dict(of_optimizer)
    assert train(again, 3, 3, fresh) == losses
    end = method.state_dict()
    assert all(torch.equal(v, end[n]) for n, v in again.state_dict().items())
    assert end["patch_center"].abs().sum() > 0


def of_rank(first: int, rows: int) -> dict[str, Tensor]:
    method, whole = apart(tiny(drop_path=0.5)), batch()
    part = {n: v[first : first + rows] for n, v in whole.items()}
    out = method(part, rand(first=first, rows=rows))
    out["loss"].backward()
    method.after_step(rand(), SOUND)
    grads = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    centers = {"center": method.center, "patch_center": method.patch_center}
    return {"loss": out["loss"].detach()} | centers | grads


def test_two_ranks_are_one(tmp_path):
    found = in_ranks(2, lambda r: of_rank(r * ROWS // 2, ROWS // 2), tmp_path)
    for name, want in of_rank(0, ROWS).items():
        mean = torch.stack([one[name] for one in found]).mean(0)
        assert (mean - want).norm() <= 1e-12 * want.norm() + 1e-14, name
    assert torch.equal(found[0]["patch_center"], found[1]["patch_center"])
    assert found[0]["loss"] != found[1]["loss"]


def noisy(step: int) -> dict[str, Tensor]:
    """Noisy crops of eight images, each of its own colours in four corners."""
    made = torch.Generator().manual_seed(5)
    coarse = torch.randn(ROWS, 1, 3, 2, 2, generator=made, dtype=torch.float64)
    made.manual_seed(step)
    image = coarse.repeat_interleave(4, -1).repeat_interleave(4, -2).expand(-1, 2, -1, -1, -1)
    local = coarse.repeat_interleave(2, -1).repeat_interleave(2, -2).expand(-1, 2, -1, -1, -1)
    return {
        "image": image + 0.2 * torch.randn(image.shape, generator=made, dtype=torch.float64),
        "local": local + 0.2 * torch.randn(local.shape, generator=made, dtype=torch.float64),
    }


def test_it_learns_and_does_not_collapse():
    """Uniform would be ln(32) = 3.47 each; all images alike, a spread of 0."""
    method = tiny(momentum=0.99, drop_path=0.0, freeze=0.0, warmup=0.0, teacher_temp=0.04)
    train(method, 0, 150, adam(method, 1e-3), noisy)
    out = method(noisy(1000), rand(100, 0.9, first=8000))
    assert out["class_loss"] < 2.4
    assert out["patch_loss"] < 3.1
    assert out["feature_spread"] > 0.6
    assert out["effective_rank"] > 1.8
    data = [noisy(s)["image"][:, 0] for s in (2000, 2001)]
    with torch.no_grad():
        one, two = (method.trained_encoder()(images)[:, 0] for images in data)
    one, two = (torch.nn.functional.normalize(v - v.mean(0), dim=1) for v in (one, two))
    assert ((one @ two.T).argmax(1) == torch.arange(ROWS)).all()
