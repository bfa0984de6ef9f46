"""The uniformity term over two ranks is that of the whole batch, loss and gradients."""

from __future__ import annotations

import torch
from gloo import in_ranks
from torch import Tensor

from openmae.methods import MAE
from openmae.randomness import Rand

ROWS = 8
SIZES = {"embed_dim": 32, "depth": 1, "num_heads": 2}


def tiny() -> MAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MAE(
            encoder="vit_tiny_patch16_224", image_size=16, patch_size=4, encoder_args=SIZES,
            decoder_dim=16, decoder_depth=1, decoder_heads=2, uniformity=0.5,
        ).double()  # fmt: skip


def step(first: int, rows: int) -> dict[str, Tensor]:
    images = torch.linspace(-1, 2, ROWS * 768, dtype=torch.float64).sin().view(ROWS, 3, 16, 16)
    images = images + torch.arange(ROWS).view(-1, 1, 1, 1).cos()
    model = tiny()
    rand = Rand(seed=0, step=0, progress=0.0, first=first, rows=rows)
    out = model(images[first : first + rows], rand=rand)
    out["loss"].backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": out["loss"].detach(), "uniformity": out["uniformity"]} | grads


def test_two_ranks_are_one(tmp_path):
    found = in_ranks(2, lambda r: step(r * ROWS // 2, ROWS // 2), tmp_path)
    whole = step(0, ROWS)
    for name, want in whole.items():
        mean = torch.stack([one[name] for one in found]).mean(0)
        assert (mean - want).norm() <= 1e-12 * want.norm() + 1e-14, name
    halves = torch.stack([step(r * 4, 4)["uniformity"] for r in range(2)]).mean()
    assert abs(halves - whole["uniformity"]) > 1e-6, "pairs across ranks count"
