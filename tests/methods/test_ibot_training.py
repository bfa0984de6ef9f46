"""iBOT: continuation, ranks, and learning on a handful of images."""

from __future__ import annotations

import torch
from dino_models import ROWS, adam, are_one, goes_on, rand, step_of_a_rank, train
from ibot_models import apart, tiny
from torch import Tensor


def test_state_is_all_that_is_needed_to_go_on():
    assert goes_on(tiny)["patch_center"].abs().sum() > 0


def of_rank(first: int, rows: int) -> dict[str, Tensor]:
    method = apart(tiny(drop_path=0.5))
    centers = {"center": method.center, "patch_center": method.patch_center}
    return step_of_a_rank(method, first, rows) | centers


def test_two_ranks_are_one(tmp_path):
    are_one(of_rank, tmp_path, "patch_center")


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
