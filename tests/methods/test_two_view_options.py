"""Options of SimCLR, BYOL and MoCo v3 beyond what was published of them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from twoview_models import TWO_VIEWS, pairs, tiny

from openmae.engine.optim import Schedule, adamw, param_groups, set_rates
from openmae.errors import UsageError
from openmae.methods.byol import distance
from openmae.methods.twoviews import both
from openmae.models.whitening import whiten
from openmae.randomness import Rand


def test_byol_with_normed_outputs():
    """`last_norm`: outputs of projector and predictor have mean 0 and variance 1 over a view."""
    plain, normed = tiny("byol").train(), tiny("byol", last_norm=True).train()
    features = torch.randn(64, plain.encoder.vit.embed_dim, dtype=torch.float64)
    out = normed.predictor(normed.projector(features))
    assert torch.allclose(out.mean(0), torch.zeros_like(out[0]), atol=1e-9)
    assert torch.allclose(out.var(0, unbiased=False), torch.ones_like(out[0]), rtol=0.05)
    assert len(normed.projector) == len(plain.projector) + 1
    assert not list(normed.projector[-1].parameters())


def test_byol_with_whitened_targets():
    """Of both views together, and the rest as without."""
    method, images = tiny("byol", whiten=True).train(), pairs()
    reference = copy.deepcopy(method)
    found = method({"image": images})["sample_loss"]
    momentum, said, predicted = reference.momentum, [], []
    for view in images.unbind(1):
        said.append(momentum.projector(momentum.encoder(view)[:, 0]))
        predicted.append(reference.predictor(reference.projector(reference.encoder(view)[:, 0])))
    first, second = whiten(torch.cat(said)).chunk(2)
    wanted = distance(predicted[0], second) + distance(predicted[1], first)
    assert torch.allclose(found, wanted, rtol=1e-10)
    plain = tiny("byol").train()({"image": images})["sample_loss"]
    assert not torch.allclose(found, plain)


def a_step(rows: int = 8) -> Rand:
    return Rand(seed=0, step=0, progress=0.5, first=16, rows=rows)


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_dropped_patches_are_seen_by_no_encoder(name):
    """A change of a dropped patch changes nothing; that of a kept one does. 3 of 4 are kept."""
    method, images = tiny(name, patch_drop_rate=0.25).train(), pairs()
    ids = method.patches(both(images), a_step())
    assert ids.shape == (16, 3)
    assert all(len(set(row)) == 3 for row in ids.tolist())
    assert len({tuple(sorted(row)) for row in ids.tolist()}) > 1
    assert not torch.equal(ids[:8], ids[8:])  # the two views of an image have their own
    same = copy.deepcopy(method)({"image": images}, a_step())["sample_loss"]
    for kept in (False, True):
        changed, at = images.clone(), ids[8 + 2, 0].item()  # of the second view of the third image
        if not kept:
            (at,) = set(range(4)) - set(ids[8 + 2].tolist())
        row, column = divmod(at, 2)
        changed[2, 1, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
        found = copy.deepcopy(method)({"image": changed}, a_step())["sample_loss"]
        assert torch.equal(found, same) is not kept
    other = method.patches(both(images), Rand(0, 1, 0.5, 24, 8))
    assert not torch.equal(other, ids)


def test_patches_are_dropped_by_the_rows_of_the_run():
    """Whatever the rank: those of rows 20 to 23 are the same in two batches."""
    method, images = tiny("byol", patch_drop_rate=0.5), both(pairs())
    whole = method.patches(images, a_step())
    half = method.patches(both(pairs(4)), Rand(seed=0, step=0, progress=0.5, first=20, rows=4))
    assert torch.equal(half[:4], whole[4:8])
    assert torch.equal(half[4:], whole[12:])


def test_no_patches_are_dropped_without_randomness():
    with pytest.raises(ValueError, match="patch_drop_rate"):
        tiny("simclr", patch_drop_rate=0.5)({"image": pairs()})


@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_byol_with_another_rate_for_its_predictor(rate):
    """The first step of AdamW moves every weight by its rate, whatever the gradient."""
    method = tiny("byol", predictor_lr=rate).train()
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    groups = param_groups(method, 0.0, method.lr_scales())
    optimizer = adamw(method, 1e-3, (0.9, 0.95), 0.0, groups)
    set_rates(optimizer, 0, Schedule(1e-3, 0.0, 0, 10))
    method({"image": pairs()})["loss"].backward()
    optimizer.step()
    for name, now in method.named_parameters():
        if now.grad is None:
            assert torch.equal(now, before[name])
            continue
        sure = now.grad.abs() > 1e-6
        wanted = 1e-3 * rate if name.startswith("predictor.") else 1e-3
        moved = (now.detach() - before[name]).abs()[sure]
        assert torch.allclose(moved, torch.full_like(moved, wanted), rtol=0.02), name


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_of_the_predictor_that_cannot_be(rate):
    with pytest.raises(UsageError, match="predictor_lr"):
        tiny("byol", predictor_lr=rate)
