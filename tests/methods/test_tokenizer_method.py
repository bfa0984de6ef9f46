"""The tokenizer as a method: gradients, micro-batches, the target that takes its codes."""

from __future__ import annotations

import pytest
import torch

from openmae.errors import UsageError
from openmae.methods.tokenizer import Tokenizer
from openmae.targets.tokens import Tokens


def images(count: int = 8) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 8, 12), generator=made, dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["kmeans", "vqvae"])
def test_a_step(kind):
    own = {"codes": 8, "kind": kind, "width": 4, "hidden": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Tokenizer(4, 3, **own).double()
    out = model({"image": images()})
    assert out["tokens"].shape == (8, 6)
    torch.testing.assert_close(out["loss"].detach(), out["sample_loss"].mean())
    out["loss"].backward()
    whole = [p.grad.clone() for p in model.parameters()]
    assert all(g.isfinite().all() for g in whole)
    model.zero_grad()
    for part in images().split(2):
        (model(part)["loss"] / 4).backward()
    for a, b in zip(whole, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    again = Tokenizer(**model.arguments).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images())["tokens"], out["tokens"])
    target = Tokens((4, 4), 3, **own).double()
    target.codebook.load_state_dict(model.codebook.state_dict())
    x = model.patches(images())
    assert torch.equal(target.values(x, images(), x), out["tokens"])


def test_impossible():
    with pytest.raises(UsageError, match="kmeans, vqvae"):
        Tokenizer(kind="bpe")
    with pytest.raises(UsageError, match="3 channels"):
        Tokenizer(mean=(0.5,))
