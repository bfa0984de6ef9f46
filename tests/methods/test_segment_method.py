"""The segmenter: its loss against a formula, its randomness, what is trained, any channels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openmae.errors import UsageError
from openmae.methods.segment import Segmenter, pixel_losses
from openmae.randomness import Rand

SIZES = {"embed_dim": 32, "depth": 4, "num_heads": 2}
SMALL = {
    "encoder": "vit_tiny_patch16_224",
    "image_size": (24, 32),
    "patch_size": 8,
    "encoder_args": SIZES,
    "head_dim": 16,
}
HEADS = ("upernet", "dpt", "linear")


def small(**more) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(**{**SMALL, "classes": list("abc"), **more}).double()


def batch(rows: int = 4, chans: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(rows, chans, 24, 32, generator=generator, dtype=torch.float64)
    mask = torch.randint(-1, 3, (rows, 24, 32), generator=generator).to(torch.int16)
    return {"image": images, "mask": mask}


def rand(first: int = 8, rows: int = 4) -> Rand:
    return Rand(0, 3, 0.5, first, rows)


def test_the_loss_of_an_image_is_the_mean_of_its_labelled_pixels():
    given = batch()
    logits = torch.randn(4, 3, 24, 32, dtype=torch.float64)
    given["mask"][1] = -1
    found = pixel_losses(logits, given["mask"].long())
    assert float(found[1]) == 0
    for i in (0, 2, 3):
        expected = F.cross_entropy(
            logits[i : i + 1], given["mask"][i : i + 1].long(), ignore_index=-1
        )
        torch.testing.assert_close(found[i], expected, atol=1e-14, rtol=0)


def test_the_loss_has_torchs_gradient():
    logits = torch.randn(1, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.randint(-1, 3, (1, 5, 6))
    found = torch.autograd.grad(pixel_losses(logits, mask).sum(), logits)[0]
    expected = torch.autograd.grad(F.cross_entropy(logits, mask, ignore_index=-1), logits)[0]
    torch.testing.assert_close(found, expected, atol=1e-15, rtol=0)


def test_the_auxiliary_loss_is_weighed():
    model = small(auxiliary=0.4).eval()
    given = batch()
    out = model(given, rand())
    alone = small(auxiliary=0.0).eval()
    alone.load_state_dict(
        {n: t for n, t in model.state_dict().items() if not n.startswith("extra.")}
    )
    main = alone(given, rand())
    expected = main["sample_loss"].mean() + 0.4 * out["auxiliary_loss"]
    torch.testing.assert_close(out["loss"], expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("head", HEADS)
def test_micro_batches_and_ranks_add_up(head):
    model = small(head=head, drop_path=0.5).train()
    given = batch()
    given["mask"][0, :20] = -1  # images with few labelled pixels
    whole = model(given, rand())
    whole["loss"].backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    losses = []
    for start in (0, 2):
        part = {k: v[start : start + 2] for k, v in given.items()}
        out = model(part, rand().slice(start, start + 2))
        (out["loss"] / 2).backward()
        losses.append(out["sample_loss"])
    torch.testing.assert_close(torch.cat(losses), whole["sample_loss"], atol=1e-13, rtol=0)
    for name, grad in expected.items():
        got = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(got, grad, atol=1e-13, rtol=1e-11)


def test_training_is_random_by_rand_alone_and_testing_is_not():
    model = small(drop_path=0.5).train()
    given = batch()
    torch.manual_seed(1)
    first = model(given, rand())["loss"]
    torch.manual_seed(2)
    assert torch.equal(first, model(given, rand())["loss"])
    assert not torch.equal(first, model(given, rand(first=12))["loss"])
    model.eval()
    assert torch.equal(model(given, rand())["loss"], model(given, rand(first=12))["loss"])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("frozen", [False, True])
def test_all_that_is_trained_has_a_gradient_and_frozen_is_the_encoder(head, frozen):
    model = small(head=head, frozen=frozen, drop_path=0.3).train()
    model(batch(), rand())["loss"].backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trained
    assert any(n.startswith("encoder.") for n in trained) is not frozen
    groups = model.param_groups(0.05, 0.65)
    assert {n for g in groups for n, _ in g["params"]} == trained


def test_groups_have_layer_decay_and_heads_the_full_rate():
    scales = {
        name: (group["lr_scale"], group["weight_decay"])
        for group in small(head="linear").param_groups(0.05, 0.5)
        for name, _ in group["params"]
    }
    assert scales["encoder.vit.pos_embed"] == (0.5**5, 0.0)
    assert scales["encoder.vit.blocks.3.mlp.fc1.weight"] == (0.5, 0.05)
    assert scales["encoder.vit.norm.weight"] == (1.0, 0.0)
    assert scales["head.classify.weight"] == (1.0, 0.05)
    assert scales["head.classify.bias"] == (1.0, 0.0)


@pytest.mark.parametrize("size", [(24, 32), (17, 50), (5, 5), (64, 8)])
def test_logits_of_any_size(size):
    model = small().eval()
    with torch.no_grad():
        assert tuple(model.logits(torch.randn(1, 3, *size).double()).shape) == (1, 3, *size)


def test_thirteen_bands():
    model = small(in_chans=13).train()
    out = model(batch(chans=13), rand())
    out["loss"].backward()
    assert torch.isfinite(out["loss"])


def test_bytes_are_normalised_by_the_models_numbers():
    model = small(mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7)).eval()
    images = torch.randint(0, 256, (1, 3, 24, 32), dtype=torch.uint8)
    by_hand = images.double() / 255 - torch.tensor([0.2, 0.3, 0.4]).double().view(3, 1, 1)
    by_hand = by_hand / torch.tensor([0.5, 0.6, 0.7]).double().view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(images), model.logits(by_hand), atol=1e-6, rtol=0)


@pytest.mark.parametrize("more", [{"head": "x"}, {"blocks": (0, 1)}, {"blocks": (0, 1, 2, 4)}])
def test_mistakes(more):
    with pytest.raises(UsageError, match="head"):
        small(**more)
