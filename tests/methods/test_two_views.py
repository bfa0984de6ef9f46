"""SimCLR, BYOL and MoCo v3: their losses, momentum, views, and that they learn."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from twoview_models import NOT_SKIPPED, SIZE, SKIPPED, TWO_VIEWS, pairs, rand_at, tiny, train

from openmae.errors import UsageError
from openmae.methods import METHODS
from openmae.methods.base import own_arguments
from openmae.methods.byol import distance
from openmae.methods.mocov3 import contrast
from openmae.methods.simclr import nt_xent
from openmae.methods.twoviews import both, momentum_at
from openmae.weights.methodfile import load_method, save_method


def made(shift: float) -> Tensor:
    """Projections (5, 3) that need no generator."""
    i = torch.arange(15, dtype=torch.float64).view(5, 3)
    return torch.sin(1.7 * i + shift) + 0.1 * torch.cos(i * i)


# The losses.


@pytest.mark.parametrize(
    ("temperature", "wanted"),
    [(0.1, 0.3622130481946587), (0.2, 0.5679270428770282), (0.5, 1.0249257257625928)],
)
def test_nt_xent_is_that_of_lightly(temperature, wanted):
    """NTXentLoss of lightly 1.6.0."""
    assert nt_xent(made(0), made(0.5), temperature).mean().item() == pytest.approx(wanted, abs=1e-6)


def test_distance_is_that_of_lightly():
    """NegativeCosineSimilarity of lightly 1.6.0."""
    assert distance(made(0), made(0.5)).mean().item() == pytest.approx(
        2 - 2 * 0.8735178649411186, abs=1e-12
    )
    assert distance(made(1.2), made(2.0)).mean().item() == pytest.approx(
        2 - 2 * 0.660417647393516, abs=1e-12
    )


def unit(values: Tensor) -> list[list[float]]:
    return [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in values.tolist()]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_nt_xent_by_its_formula():
    first, second, temperature = unit(made(0)), unit(made(0.5)), 0.3
    everyone = first + second
    losses = []
    for i, one in enumerate(everyone):
        others = [math.exp(dot(one, o) / temperature) for j, o in enumerate(everyone) if j != i]
        partner = math.exp(dot(one, everyone[(i + 5) % 10]) / temperature)
        losses.append(-math.log(partner / sum(others)))
    wanted = [(losses[i] + losses[i + 5]) / 2 for i in range(5)]
    found = nt_xent(made(0), made(0.5), temperature)
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)


def test_contrast_by_its_formula():
    queries, keys, temperature = unit(made(0)), unit(made(0.5)), 0.2
    wanted = []
    for i, query in enumerate(queries):
        weights = [math.exp(dot(query, key) / temperature) for key in keys]
        wanted.append(-2 * temperature * math.log(weights[i] / sum(weights)))
    found = contrast(made(0), made(0.5), temperature)
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_the_whole_by_its_formula(name):
    """From the images on, with the parts called one by one."""
    method, images = tiny(name).train(), pairs()
    reference = copy.deepcopy(method)
    found = method({"image": images})
    one, two = images[:, 0], images[:, 1]

    def cls(encoder: torch.nn.Module, view: Tensor) -> Tensor:
        return encoder.vit.forward_features(view)[:, 0]

    encoder, projector = reference.encoder, reference.projector
    if name == "simclr":  # statistics over both views
        out = projector(torch.cat([cls(encoder, one), cls(encoder, two)]))
        wanted = nt_xent(out[:8], out[8:], 0.2)
    else:
        q = [reference.predictor(projector(cls(encoder, v))) for v in (one, two)]
        momentum = reference.momentum
        k = [momentum.projector(cls(momentum.encoder, v)) for v in (one, two)]
        if name == "byol":
            wanted = distance(q[0], k[1]) + distance(q[1], k[0])
        else:
            wanted = contrast(q[0], k[1], 0.2) + contrast(q[1], k[0], 0.2)
    assert torch.allclose(found["sample_loss"], wanted, rtol=1e-10)
    assert found["loss"].item() == pytest.approx(wanted.mean().item(), rel=1e-10)
    assert not found["sample_loss"].requires_grad
    assert all(v.ndim == 0 for n, v in found.items() if n != "sample_loss")


# Parameters and momentum.


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_only_what_should_be_trained_is(name):
    method = tiny(name)
    method({"image": pairs()})["loss"].backward()
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    assert {n for n, p in method.named_parameters() if p.grad is not None} == trained
    still = {n for n in dict(method.named_parameters()) if n not in trained}
    own = {n for n in still if not n.startswith("momentum.")}
    assert own == {
        f"encoder.vit.{n}"
        for n in ("pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
    }
    assert tiny(name, frozen_patch=False).encoder.vit.patch_embed.proj.weight.requires_grad


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_a_step_that_is_skipped_moves_no_statistics(name):
    """Its loss may be finite: only its gradients are not."""
    method = tiny(name).train()
    before = {n: v.clone() for n, v in method.state_dict().items()}
    assert method({"image": pairs()})["loss"].isfinite()
    method.after_step(rand_at(0.3), SKIPPED)
    assert all(torch.equal(v, before[n]) for n, v in method.state_dict().items())
    method({"image": pairs()})
    method.after_step(rand_at(0.3), NOT_SKIPPED)
    after = method.state_dict()
    moved = {n for n in after if "running_" in n and not torch.equal(after[n], before[n])}
    assert moved == {n for n in after if "running_" in n}
    for found in ("running_mean", "running_var"):
        mine = [v for n, v in after.items() if found in n and n.startswith("projector.")]
        theirs = [v for n, v in after.items() if found in n and n.startswith("momentum.")]
        assert name == "simclr" or all(map(torch.equal, mine, theirs))


@pytest.mark.parametrize("name", ["byol", "mocov3"])
def test_the_momentum_encoder_follows(name):
    method = tiny(name)
    with torch.no_grad():
        for parameter in (*method.encoder.vit.blocks.parameters(), *method.projector.parameters()):
            parameter += 1
    before = {n: v.clone() for n, v in method.momentum.state_dict().items()}
    method.after_step(rand_at(0.3), SKIPPED)
    after = method.momentum.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in before)
    method.after_step(rand_at(0.3), NOT_SKIPPED)
    share = 1 - momentum_at(method.arguments["momentum"], 0.3)
    moved = method.momentum.encoder.vit.blocks[0].mlp.fc1.weight
    was = before["encoder.vit.blocks.0.mlp.fc1.weight"]
    assert torch.allclose(moved - was, torch.full_like(was, share), rtol=1e-9)
    assert torch.allclose(
        method.momentum.projector[0].weight - before["projector.0.weight"],
        torch.full_like(before["projector.0.weight"], share),
        rtol=1e-9,
    )


def test_the_schedule_of_the_momentum():
    assert momentum_at(0.99, 0) == pytest.approx(0.99)
    assert momentum_at(0.99, 0.5) == pytest.approx(0.995)
    assert momentum_at(0.99, 1) == 1
    assert momentum_at(0.9, 0.5, 0.98) == pytest.approx(0.94)
    assert momentum_at(0.9, 1, 0.98) == pytest.approx(0.98)


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_arguments_make_it_again(name):
    method = tiny(name, pool="mean", jitter=0.3)
    again = TWO_VIEWS[name](**method.arguments)
    assert again.state_dict().keys() == method.state_dict().keys()
    assert (again.pool, again.views()) == ("mean", method.views())
    assert method.arguments["jitter"] == 0.3
    assert {"hidden", "out", "pool", "jitter", "blur"} <= own_arguments(TWO_VIEWS[name]).keys()


def test_views():
    first, second = tiny("simclr").views()
    assert (first["blur_p"], second["blur_p"], second["solarize_p"]) == (1.0, 0.1, 0.2)
    assert first["jitter"] == (0.4, 0.4, 0.2, 0.1)
    first, second = tiny("byol", blur=False, solarize=False, crop_area=0.2).views()
    assert (first["blur_p"], second["solarize_p"], first["crop"]) == (0.0, 0.0, (0.2, 1.0))
    images = pairs(3)
    assert torch.equal(both({"image": images})[4], images[1, 1])


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("simclr", {"pool": "max"}, "pool=max"),
        ("simclr", {"temperature": 0.0}, "temperature=0.0"),
        ("mocov3", {"temperature": -1.0}, "temperature=-1.0"),
        ("byol", {"momentum": 1.5}, "momentum=1.5"),
        ("byol", {"patch_drop_rate": 0.9}, "leave one of 4 patches"),
        ("simclr", {"patch_drop_rate": -0.1}, "patch_drop_rate=-0.1"),
        ("mocov3", {"patch_drop_rate": 1.0}, "patch_drop_rate=1.0"),
        ("byol", {"encoder_args": SIZE["encoder_args"] | {"class_token": False}}, "pool=cls"),
    ],
)
def test_refused(name, more, words):
    with pytest.raises(UsageError, match=words):
        tiny(name, **more)


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="two views"):
        tiny("byol")({"image": pairs()[:, 0]})


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_a_file_makes_it_again(name, tmp_path):
    method = tiny(name, blur=False).float()
    save_method(tmp_path / "method.safetensors", method)
    again = load_method(tmp_path / "method.safetensors")
    assert type(again) is METHODS[name] is TWO_VIEWS[name]
    assert again.views() == method.views()
    state = method.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(v, state[n]) for n, v in again.state_dict().items())
    assert not any(p.requires_grad for n, p in again.named_parameters() if "momentum." in n)


# Learning.


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_it_learns_without_collapse(name):
    method = tiny(name, momentum=0.9) if name != "simclr" else tiny(name)
    losses, _ = train(method, 60)
    out = method({"image": pairs(16, 5, 0.2)})
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert out["feature_spread"] > 0.1
    assert out["effective_rank"] > 2


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_state_is_all_that_is_needed_to_go_on(name):
    method = tiny(name)
    _, optimizer = train(method, 3)
    state, of_optimizer = (copy.deepcopy(x.state_dict()) for x in (method, optimizer))
    losses, _ = train(method, 3, 3, optimizer=optimizer)
    again = tiny(name, seed=7)
    again.load_state_dict(state)
    fresh = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], weight_decay=0.0)
    fresh.load_state_dict(of_optimizer)
    assert train(again, 3, 3, optimizer=fresh)[0] == losses
    end = method.state_dict()
    assert all(torch.equal(v, end[n]) for n, v in again.state_dict().items())
    assert any("running_mean" in n for n in end)
    assert any(n.startswith("momentum.") for n in end) == (name != "simclr")
