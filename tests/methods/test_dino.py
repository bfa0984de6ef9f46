"""DINO: its loss, crops, centre, teacher, schedules, continuation and ranks."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from dino_models import SIZE, SKIPPED, SOUND, are_one, batch, goes_on, rand, step_of_a_rank
from torch import Tensor

from openmae.errors import UsageError
from openmae.methods.crops import pooled, resized
from openmae.methods.dino import DINO, cross_entropy
from openmae.methods.sinkhorn import sinkhorn
from openmae.models.positions import GridTables

CENTER = 2.0


def tiny(seed: int = 0, **more: Any) -> DINO:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DINO(**(SIZE | more)).double()


def made(shift: float, views: int) -> Tensor:
    """Logits (views, 5, 4) that need no generator."""
    i = torch.arange(views * 20, dtype=torch.float64).view(views, 5, 4)
    return torch.sin(1.7 * i + shift) + 0.1 * torch.cos(i * i)


@pytest.mark.parametrize(("views", "wanted"), [(2, 15.009113282294305), (4, 11.528975915311122)])
def test_the_loss_is_that_of_lightly(views, wanted):
    """DINOLoss of lightly, temperatures 0.1 and 0.25, with a centre."""
    said = ((made(0, 2) - made(CENTER, 1)[0, 0]) / 0.25).softmax(-1)
    assert cross_entropy(made(0.5, views), said, 0.1).mean().item() == pytest.approx(
        wanted, rel=1e-12
    )


def test_the_loss_by_its_formula():
    def shares(row: list[float], temperature: float) -> list[float]:
        powers = [math.exp(v / temperature) for v in row]
        return [p / sum(powers) for p in powers]

    student, teacher = made(0.5, 3).tolist(), made(0, 2).tolist()
    wanted = [0.0] * 5
    for b in range(5):
        for t in range(2):
            p = shares(teacher[t][b], 0.2)
            for s in (s for s in range(3) if s != t):
                q = shares(student[s][b], 0.1)
                wanted[b] -= sum(x * math.log(y) for x, y in zip(p, q, strict=True)) / 4
    found = cross_entropy(made(0.5, 3), (made(0, 2) / 0.2).softmax(-1), 0.1)
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)


def test_the_whole_by_its_parts():
    method, data = tiny(drop_path=0.0), batch()
    with torch.no_grad():
        method.center.copy_(torch.linspace(-0.1, 0.1, 32))
        for parameter in method.teacher.parameters():  # else student and teacher are the same
            parameter.mul_(1.1)
    out = method(data, rand())
    logits = [method.head(method.encoder(data["image"][:, v])[:, 0]) for v in range(2)]
    tables = GridTables([(2, 2)], 16, 1).double()
    logits += [
        method.head(resized(method.encoder, v, tables)[:, 0]) for v in data["local"].unbind(1)
    ]
    theirs = [
        method.teacher.projector(method.teacher.encoder(data["image"][:, v])[:, 0])
        for v in range(2)
    ]
    said = ((torch.stack(theirs) - method.center) / 0.07).softmax(-1)
    wanted = cross_entropy(torch.stack(logits), said, 0.1)
    assert torch.allclose(out["sample_loss"], wanted, rtol=1e-10)
    assert out["loss"].item() == pytest.approx(wanted.mean().item(), rel=1e-12)
    entropy = -(said * said.log()).sum(-1).mean()
    assert out["teacher_entropy"].item() == pytest.approx(entropy.item(), rel=1e-10)
    assert torch.allclose(method.batch_center, torch.stack(theirs).mean((0, 1)))
    assert all(v.ndim == 0 for n, v in out.items() if n != "sample_loss")


def test_a_small_crop_of_the_full_size_is_a_large_one():
    method, images = tiny(), batch()["image"][:, 0]
    method.eval()
    tables = GridTables([(4, 4)], 16, 1).double()
    whole = method.encoder(images)
    assert torch.allclose(resized(method.encoder, images, tables), whole, rtol=1e-12)
    for pool, wanted in (("cls", whole[:, 0]), ("mean", whole[:, 1:].mean(1))):
        found = pooled(method.encoder, whole, pool)
        assert torch.allclose(found, wanted, rtol=1e-12)


def test_the_mean_of_patch_tokens_as_the_feature():
    """With BatchNorm in the head: over both large crops together, and over the small ones."""
    method, data = tiny(drop_path=0.0, pool="mean", head_norm=True).train(), batch()
    reference = copy.deepcopy(method)
    out = method(data, rand())
    tables = GridTables([(2, 2)], 16, 1).double()
    large = torch.cat(data["image"].unbind(1))
    small = torch.cat(data["local"].unbind(1))
    own = reference.encoder(large)[:, 1:].mean(1)
    logits = [reference.head(own)]
    logits.append(reference.head(resized(reference.encoder, small, tables)[:, 1:].mean(1)))
    theirs = reference.teacher.projector(reference.teacher.encoder(large)[:, 1:].mean(1))
    said = ((theirs.unflatten(0, (2, -1)) - reference.center) / 0.07).softmax(-1)
    wanted = cross_entropy(torch.cat(logits).unflatten(0, (4, -1)), said, 0.1)
    assert torch.allclose(out["sample_loss"], wanted, rtol=1e-10)
    rows = own @ reference.head.mlp[0].weight.T + reference.head.mlp[0].bias
    rows = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(reference.head.mlp[:2](own), rows, rtol=1e-9)
    assert type(reference.head.mlp[-1]) is torch.nn.Linear  # no norm at the bottleneck


def test_prototypes_shared_out_by_sinkhorn():
    """Over both large crops together; the centre is not used."""
    method, data = tiny(drop_path=0.0, centering="sinkhorn").train(), batch()
    with torch.no_grad():
        method.center.copy_(torch.linspace(-0.1, 0.1, 32))
    reference = copy.deepcopy(method)
    out = method(data, rand())
    large, small = (torch.cat(data[name].unbind(1)) for name in ("image", "local"))
    tables = GridTables([(2, 2)], 16, 1).double()
    tokens = (reference.encoder(large), resized(reference.encoder, small, tables))
    logits = torch.cat([reference.head(t[:, 0]) for t in tokens])
    theirs = reference.teacher.projector(reference.teacher.encoder(large)[:, 0])
    said = sinkhorn(theirs, 0.07).unflatten(0, (2, -1))
    wanted = cross_entropy(logits.unflatten(0, (4, -1)), said, 0.1)
    assert torch.allclose(out["sample_loss"], wanted, rtol=1e-10)


def test_statistics_of_the_head_move_with_the_step():
    method = tiny(head_norm=True, drop_path=0.0).train()
    before = copy.deepcopy(method.state_dict())
    running = {n for n in before if "running_" in n}
    assert {n.split(".")[0] for n in running} == {"head", "teacher"}
    method(batch(), rand())
    method.after_step(rand(), SKIPPED)
    assert all(torch.equal(v, before[n]) for n, v in method.state_dict().items())
    method(batch(), rand())
    method.after_step(rand(), SOUND)
    after = method.state_dict()
    assert not any(torch.equal(after[n], before[n]) for n in running)
    for name in (n for n in running if n.startswith("head.")):
        assert torch.equal(after[name], after[name.replace("head.", "teacher.projector.")])


def test_gradients_and_the_frozen_last_layer():
    method = tiny(norm_last_layer=False)
    method(batch(), rand())["loss"].backward()
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    assert {n for n, p in method.named_parameters() if p.grad is not None} == trained
    assert not any(n.startswith("teacher.") for n in trained)
    assert method.head.scale.grad.abs().sum() > 0
    assert method.head.prototypes.grad.abs().sum() > 0
    early = tiny()
    early(batch(), rand(progress=0.005))["loss"].backward()
    assert early.head.prototypes.grad.abs().sum() == 0
    assert early.head.mlp[0].weight.grad.abs().sum() > 0
    assert not early.head.scale.requires_grad


def test_centre_and_teacher_move_unless_skipped():
    method = tiny(momentum=0.9, center_momentum=0.8)
    with torch.no_grad():
        for parameter in method.encoder.vit.blocks.parameters():
            parameter += 1
        method.center.fill_(0.5)
    method(batch(), rand())
    before = copy.deepcopy(method.state_dict())
    method.after_step(rand(), SKIPPED)
    assert all(torch.equal(v, before[n]) for n, v in method.state_dict().items())
    method.after_step(rand(progress=0), SOUND)
    assert torch.allclose(method.center, 0.8 * before["center"] + 0.2 * method.batch_center)
    name = "teacher.encoder.vit.blocks.0.mlp.fc1.weight"
    moved = method.state_dict()[name] - before[name]
    assert torch.allclose(moved, torch.full_like(moved, 0.1))
    assert method.trained_encoder() is method.teacher.encoder
    assert len(method.blocks()) == 4
    with torch.no_grad():
        method.batch_center.fill_(float("nan"))
    method.after_step(rand(), SKIPPED)
    assert method.center.isfinite().all()


def test_sinkhorn_averages_no_centre():
    method = tiny(centering="sinkhorn")
    method(batch(), rand())
    method.after_step(rand(), SOUND)
    assert not method.batch_center.any()
    assert not method.center.any()


def test_the_teacher_may_follow_to_the_end():
    """At the end of the run: by 1 - `momentum_end`, by default not at all."""
    name = "teacher.encoder.vit.blocks.0.mlp.fc1.weight"
    for more, share in (({}, 0.0), ({"momentum_end": 0.95}, 0.05)):
        method = tiny(momentum=0.9, **more)
        with torch.no_grad():
            for parameter in method.encoder.vit.blocks.parameters():
                parameter += 1
        before = method.state_dict()[name].clone()
        method.after_step(rand(progress=1), SOUND)
        moved = method.state_dict()[name] - before
        assert torch.allclose(moved, torch.full_like(moved, share), atol=1e-7)


def test_schedule_views_and_arguments():
    method = tiny(teacher_temp=0.07, warmup=0.5, blur=False)
    found = [method.teacher_temperature(p) for p in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
    views = method.views()
    assert [v.get("size") for v in views] == [None, None, (4, 4), (4, 4)]
    assert views[0]["crop"] == (0.4, 1.0)
    assert views[2]["crop"] == (0.05, 0.4)
    again = DINO(**method.arguments)
    assert again.views() == views
    assert again.state_dict().keys() == method.state_dict().keys()
    example = method.example(torch.zeros(3, 3, 8, 8))
    assert example["local"].shape == (3, 2, 3, 4, 4)
    assert tiny(local_size=0).local_size == (4, 4)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"local_size": 3}, "local_size=3"),
        ({"local_size": 8}, "local_size=8"),
        ({"teacher_temp": 0.0}, "teacher_temp=0.0"),
        ({"freeze": 2.0}, "freeze=2.0"),
        ({"momentum": 1.5}, "momentum=1.5"),
        ({"momentum_end": -0.1}, "momentum_end=-0.1"),
        ({"encoder_args": SIZE["encoder_args"] | {"class_token": False}}, "pool=cls"),
        ({"pool": "max"}, "pool=max"),
        ({"centering": "center"}, "centering=center"),
    ],
)
def test_refused(more, words):
    with pytest.raises(UsageError, match=words):
        tiny(**more)


def test_state_is_all_that_is_needed_to_go_on():
    assert goes_on(tiny)["center"].abs().sum() > 0
    goes_on(partial(tiny, head_norm=True, pool="mean"))


def of_rank(first: int, rows: int) -> dict[str, Tensor]:
    method = tiny(drop_path=0.5)
    return step_of_a_rank(method, first, rows) | {"center": method.center}


def with_norm(first: int, rows: int) -> dict[str, Tensor]:
    method = tiny(drop_path=0.5, head_norm=True, pool="mean")
    return step_of_a_rank(method, first, rows) | {"center": method.center}


def with_sinkhorn(first: int, rows: int) -> dict[str, Tensor]:
    method = tiny(drop_path=0.5, centering="sinkhorn")
    return step_of_a_rank(method, first, rows) | {"center": method.center}


@pytest.mark.parametrize("of", [of_rank, with_norm, with_sinkhorn])
def test_two_ranks_are_one(tmp_path, of):
    are_one(of, tmp_path, "center")
