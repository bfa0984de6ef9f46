"""The classifier against timm, and its groups, freezing and head against the published values."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from openmae.engine.optim import Schedule, adamw
from openmae.errors import UsageError
from openmae.methods.classify import Classifier
from openmae.methods.mixing import Mixing
from openmae.models import droppath
from openmae.randomness import Rand

SIZES = {"embed_dim": 32, "depth": 4, "num_heads": 2}
SMALL = {
    "encoder": "vit_tiny_patch16_224",
    "image_size": 16,
    "patch_size": 8,
    "encoder_args": SIZES,
}


def small(**more) -> Classifier:
    torch.manual_seed(0)
    made = Classifier(**SMALL, classes=list("abcd"), **more)
    nn.init.normal_(made.encoder.vit.head.weight, std=0.5)
    return made


def batch(rows: int = 8) -> dict:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(rows, 3, 16, 16, generator=generator, dtype=torch.float64)
    return {"image": images, "label": torch.arange(rows) % 4}


def rand(step: int = 3, rows: int = 8) -> Rand:
    return Rand(0, step, 0.5, step * rows, rows)


# Layer decay.


def test_every_parameter_of_vit_b_has_its_published_rate():
    with torch.device("meta"):
        made = Classifier("vit_base_patch16_224", classes=[str(i) for i in range(1000)])
    seen: dict[str, tuple[float, float]] = {}
    for group in made.param_groups(0.05, 0.75):
        for name, _ in group["params"]:
            assert name not in seen
            seen[name] = (group["lr_scale"], group["weight_decay"])
    assert seen.keys() == {n for n, p in made.named_parameters() if p.requires_grad}
    for name, (scale, decay) in seen.items():
        short = name.removeprefix("encoder.vit.")
        layer = 13
        if short.startswith("blocks."):
            layer = int(short.split(".")[1]) + 1
        elif short.split(".")[0] in ("cls_token", "pos_embed", "patch_embed"):
            layer = 0
        exempt = short.endswith(".bias") or "norm" in short or short in ("cls_token", "pos_embed")
        print(f"{short:32} id {layer:2}  scale {scale:.6f}  weight decay {decay}")
        assert scale == pytest.approx(0.75 ** (13 - layer), rel=1e-12)
        assert decay == (0.0 if exempt else 0.05)
    assert seen["encoder.vit.patch_embed.proj.weight"][0] == pytest.approx(0.023757264, rel=1e-6)
    assert seen["encoder.vit.head.weight"] == (1.0, 0.05)


def test_the_rate_of_a_step_is_the_published_one():
    """Base rate x batch / 256, linear from 0, half a cosine to the minimum, times the scale."""
    peak, least, warmup, total = 1e-3 * 1024 / 256, 1e-6, 5, 100
    schedule = Schedule(peak, least, warmup, total)
    assert schedule(0) == 0
    assert schedule(2) == pytest.approx(4e-3 * 2 / 5)
    for step in (5, 40, 99):
        cosine = 0.5 * (1 + np.cos(np.pi * (step - 5) / 95))
        assert schedule(step) == pytest.approx(1e-6 + (4e-3 - 1e-6) * cosine)
    made = small()
    optimizer = adamw(made, 1.0, (0.9, 0.999), 0.05, made.param_groups(0.05, 0.75))
    assert sorted({g["lr_scale"] for g in optimizer.param_groups}) == pytest.approx(
        [0.75**k for k in (5, 4, 3, 2, 1, 0)]
    )


# What is trained.


@pytest.mark.parametrize(
    ("blocks", "trained"),
    [
        (None, None),
        (0, set()),
        (0.5, {"blocks.3.norm2", "blocks.3.mlp"}),
        (1, {"blocks.3"}),
        (1.5, {"blocks.2.norm2", "blocks.2.mlp", "blocks.3"}),
        (4, {"blocks.0", "blocks.1", "blocks.2", "blocks.3"}),
    ],
)
def test_blocks_train_the_last_ones_and_the_head(blocks, trained):
    made = small(blocks=blocks)
    found = {n.removeprefix("encoder.vit.") for n, p in made.named_parameters() if p.requires_grad}
    names = {n.removeprefix("encoder.vit.") for n, _ in made.named_parameters()}
    if trained is None:
        assert found == names
        return
    starts = (*(f"{t}." for t in trained), "fc_norm.", "head.")
    assert found == {n for n in names if n.startswith(starts)}


@pytest.mark.parametrize("blocks", [5, 0.25, 4.5])
def test_blocks_that_are_not_there(blocks):
    with pytest.raises(UsageError, match="give 0 to 4"):
        small(blocks=blocks)


def test_a_fresh_head():
    made = Classifier(**SMALL, classes=[str(i) for i in range(2000)]).encoder.vit
    weight = made.head.weight.detach()
    assert float(weight.std()) == pytest.approx(2e-5, rel=0.03)
    assert float(weight.abs().max()) < 2  # cut off at 2, absolute, as timm does
    assert not made.head.bias.any()
    assert (made.fc_norm.weight == 1).all()
    assert made.fc_norm.eps == 1e-6
    assert isinstance(made.norm, nn.Identity)
    assert made.pos_embed.requires_grad


# Outputs.


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_logits_are_timms(pool):
    made = small(pool=pool).eval()
    pooling = "avg" if pool == "mean" else "token"
    vit = timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=4,
        img_size=16,
        patch_size=8,
        global_pool=pooling,
        **SIZES,
    )
    vit.load_state_dict(made.encoder.vit.state_dict(), strict=True)
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(made.logits(images), vit.eval()(images))


def test_drop_path_is_timms():
    vit = timm.create_model("vit_tiny_patch16_224", drop_path_rate=0.3, img_size=16, patch_size=8)
    rates = [b.drop_path1.drop_prob if i else 0.0 for i, b in enumerate(vit.blocks)]
    assert [p.rate for p in droppath.install(vit, 0.3)[::2]] == pytest.approx(rates)
    path = droppath.DropPath(0.25)
    path.draw = torch.tensor([0.1, 0.25, 0.9])
    x = torch.randn(3, 2, 4)
    expected = torch.stack([x[0] * 0, x[1] / 0.75, x[2] / 0.75])
    torch.testing.assert_close(path(x), expected)
    assert torch.equal(path.eval()(x), x)


def test_losses_are_timms():
    labels = torch.tensor([0, 3, 1, 2])
    logits = torch.randn(4, 4)
    made = small(smoothing=0.1)
    found = made.losses(logits, made.mixing.targets(labels)).mean()
    torch.testing.assert_close(found, LabelSmoothingCrossEntropy(0.1)(logits, labels))
    soft = torch.rand(4, 4).softmax(1)
    torch.testing.assert_close(
        made.losses(logits, soft).mean(), SoftTargetCrossEntropy()(logits, soft)
    )
    several = small(multi_label=True)
    truth = torch.randint(0, 2, (4, 4)).float()
    expected = F.binary_cross_entropy_with_logits(logits, truth)
    torch.testing.assert_close(several.losses(logits, truth).mean(), expected)
    weighted = small(class_weights=[2.0, 1.0, 0.5, 0.5])
    expected = F.cross_entropy(logits, labels, weighted.class_weights, reduction="none").mean()
    torch.testing.assert_close(
        weighted.losses(logits, weighted.mixing.targets(labels)).mean(), expected
    )


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_micro_batches_add_up(mixup):
    """Drop path and mixing on; gradients of 1 x 8 and 4 x 2 images in float64."""
    made = small(drop_path=0.5, mixup=mixup, cutmix=mixup and 1.0, smoothing=0.1).double().train()
    whole, parts = batch(), []
    loss = made(whole, rand())["loss"]
    loss.backward()
    first = [p.grad.clone() for p in made.parameters()]
    made.zero_grad()
    for start in range(0, 8, 2):
        part = {k: v[start : start + 2] for k, v in whole.items()}
        out = made(part, rand().slice(start, start + 2))
        (out["loss"] / 4).backward()
        parts.append(out["sample_loss"])
    assert float((torch.cat(parts).mean() - loss).abs()) < 1e-7  # targets are float32
    for before, parameter in zip(first, made.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, before, rtol=1e-6, atol=1e-9)


# Mixing.


def test_a_step_has_one_mixture_and_neighbours_are_pairs():
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 4, 4).contiguous()
    labels = torch.arange(8) % 4
    mixing = Mixing(4, mixup=0.8)
    before = np.random.get_state()[1].copy()
    mixed, targets = mixing(images.clone(), labels, rand())
    assert np.array_equal(np.random.get_state()[1], before)
    share = float(mixed[1, 0, 0, 0])  # of row 1 in the pair (0, 1), whose values are 0 and 1
    for low in range(0, 8, 2):
        expected = share * (low + 1) + (1 - share) * low
        assert float(mixed[low + 1, 0, 0, 0]) == pytest.approx(expected, abs=1e-5)
        assert float(mixed[low, 0, 0, 0]) == pytest.approx(2 * low + 1 - expected, abs=1e-5)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert float(targets[1, 1]) == pytest.approx(share, abs=1e-6)
    part, _ = mixing(images[4:6].clone(), labels[4:6], rand().slice(4, 6))
    torch.testing.assert_close(part, mixed[4:6])
    other, _ = mixing(images.clone(), labels, rand(step=4))
    assert not torch.equal(other, mixed)


def test_cutmix_pastes_a_box_of_the_neighbour():
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8).contiguous()
    for step in range(4):
        mixed, targets = Mixing(4, cutmix=1.0)(images.clone(), torch.arange(4), rand(step, 4))
        assert set(mixed[0].flatten().tolist()) <= {0.0, 1.0}
        pasted = float((mixed[0, 0] == 1).float().mean())
        assert float(targets[0, 1]) == pytest.approx(pasted, abs=1e-6)


def test_an_odd_number_cannot_be_paired():
    with pytest.raises(UsageError, match="even number"):
        Mixing(4, mixup=0.8)(torch.zeros(3, 3, 4, 4), torch.zeros(3, dtype=torch.long), rand())
    with pytest.raises(UsageError, match="--mixup 0 --cutmix 0"):
        Mixing(4, mixup=0.8, multi_label=True)
