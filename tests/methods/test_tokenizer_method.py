"""The tokenizer as a method: gradients, unused codes, micro-batches and ranks, scikit-learn, the
target that takes its codes.
"""

from __future__ import annotations

import pytest
import torch
from gloo import in_ranks
from sklearn.cluster import KMeans

from openmae.errors import UsageError
from openmae.methods.tokenizer import Tokenizer
from openmae.models.codebook import normalised
from openmae.randomness import Rand
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


def shifted(codes: int = 12, kind: str = "kmeans") -> Tokenizer:
    """A tokenizer of which half of the codes is far from all patches, and known to be unused."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Tokenizer(4, 3, codes=codes, kind=kind, width=4, hidden=8).double()
    with torch.no_grad():
        model.codebook.codes[::2] += 100
        model.usage[::2] = 0
    return model


def step(model: Tokenizer, parts: list[tuple[int, int]], progress: float = 0.0) -> Rand:
    rand = Rand(0, 3, progress, 24, 8)
    for first, last in parts:
        model(images()[first:last], rand.slice(first, last))
    return rand


def done(model: Tokenizer, rand: Rand, skipped: float = 0.0) -> Tokenizer:
    model.after_step(rand, torch.tensor(skipped))
    return model


@pytest.mark.parametrize("kind", ["kmeans", "vqvae"])
def test_unused_codes_move_to_patches_of_the_step(kind):
    model = shifted(kind=kind)
    before, used = model.codebook.codes.detach().clone(), model.usage.clone()
    done(model, step(model, [(0, 8)]))
    now = model.codebook.codes.detach()
    assert torch.equal(now[1::2], before[1::2]), "those in use stay"
    offered = model.codebook.features(model.patches(images())).detach()
    far = torch.cdist(now[::2], offered.flatten(0, 1))
    assert float(far.min(dim=1).values.max()) < 1e-6, "each is at a patch"
    of_image = torch.cdist(now[::2], offered).min(dim=-1).values.argmin(dim=0)
    assert of_image.tolist() == list(range(6)), "the n-th takes that of the n-th image"
    assert (model.usage[::2] == 1 / 12).all()
    assert not torch.equal(model.usage[1::2], used[1::2])
    again = done(model, step(model, [(0, 8)])).codebook.codes.detach()
    assert torch.equal(again, now), "time to be used"


def test_parts_of_a_batch_change_nothing():
    whole, cut, twice = shifted(), shifted(), shifted()
    done(whole, step(whole, [(0, 8)]))
    done(cut, step(cut, [(0, 2), (2, 4), (4, 6), (6, 8)]))
    step(twice, [(0, 6)])  # memory ran out: the step is done again in smaller parts
    done(twice, step(twice, [(0, 4), (4, 8)]))
    for other in (cut, twice):
        assert all(torch.equal(v, other.state_dict()[n]) for n, v in whole.state_dict().items())


def test_nothing_moves_when_it_must_not():
    for progress, skipped in ((0.0, 1.0), (0.9, 0.0)):
        model = shifted()
        before = model.codebook.codes.detach().clone()
        done(model, step(model, [(0, 8)], progress), skipped)
        assert torch.equal(model.codebook.codes, before)
        assert bool((model.usage[::2] == 0).all()) == bool(skipped or progress)
    model = shifted().eval()
    before = model.usage.clone()
    done(model, step(model, [(0, 8)]))
    assert torch.equal(model.usage, before), "evaluation leaves no trace"


def _of_ranks(first: int, last: int) -> dict[str, torch.Tensor]:
    model = shifted()
    rand = Rand(0, 3, 0.0, 24, 8).slice(first, last)
    model(images()[first:last], rand)["loss"].backward()
    grads = {f"grad {n}": p.grad for n, p in model.named_parameters()}
    return grads | done(model, rand).state_dict()


def test_two_ranks_are_one(tmp_path):
    found = in_ranks(2, lambda r: _of_ranks(4 * r, 4 * r + 4), tmp_path)
    for name, want in _of_ranks(0, 8).items():
        if name.startswith("grad"):
            mean = torch.stack([one[name] for one in found]).mean(0)
            torch.testing.assert_close(mean, want, rtol=1e-12, atol=1e-14)
        else:
            assert all(torch.equal(one[name], want) for one in found), name


def test_inertia_is_that_of_scikit_learn():
    """Patches around 20 centres, in batches: as KMeans from the same start on all at once."""
    made = torch.Generator().manual_seed(5)
    centres = torch.randn(20, 3, 4, 4, generator=made)
    which = torch.randint(20, (512, 2, 3), generator=made)
    tiles = centres[which] + 0.5 * torch.randn(512, 2, 3, 3, 4, 4, generator=made)
    pictures = tiles.permute(0, 3, 1, 4, 2, 5).reshape(512, 3, 8, 12)
    model = Tokenizer(4, 3, codes=16)
    patches = model.patches(pictures).flatten(0, 1)
    model.codebook.begin(patches)
    start = model.codebook.codes.detach().clone().numpy()
    optimizer = torch.optim.AdamW(model.parameters(), 0.03, (0.9, 0.99), weight_decay=0)
    for at in range(160):
        rows = torch.arange(64 * at, 64 * at + 64) % 512
        rand = Rand(0, at, at / 160, 64 * at, 64)
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * (1 - at / 160)
        model(pictures[rows], rand)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        done(model, rand)
    goal = normalised(patches)
    want = KMeans(16, init=start, n_init=1).fit(goal.numpy()).inertia_ / goal.numel()
    error = float(model.eval()(pictures)["error"])
    assert 0.97 * want < error < 1.03 * want
    assert error < 0.5 * float(goal.square().mean())
