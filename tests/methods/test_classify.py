"""The classifier against timm: outputs, head, losses; and its randomness."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods.classify import Classifier
from openmae.models.positions import sincos_2d
from openmae.randomness import Rand

SIZES = {"embed_dim": 32, "depth": 4, "num_heads": 2}
SMALL = {
    "encoder": "vit_tiny_patch16_224",
    "image_size": 16,
    "patch_size": 8,
    "encoder_args": SIZES,
}
STRONG = {"drop_path": 0.5, "mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1}


def small(**more) -> Classifier:
    torch.manual_seed(0)
    made = Classifier(**SMALL, classes=list("abcd"), **more)
    nn.init.normal_(made.encoder.vit.head.weight, std=0.5)
    return made


def batch(rows: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(rows, 3, 16, 16, generator=generator, dtype=torch.float64)
    return {"image": images, "label": torch.arange(rows) % 4}


def rand(step: int = 3, rows: int = 8) -> Rand:
    return Rand(0, step, 0.5, step * rows, rows)


# The head.


def test_a_fresh_head():
    torch.manual_seed(0)
    made = Classifier(**SMALL, classes=[str(i) for i in range(2000)])
    vit = made.encoder.vit
    for parameter in (*vit.fc_norm.parameters(), *vit.head.parameters()):
        nn.init.constant_(parameter, 7)  # timm's own start is not what is tested
    made.initialise_head()
    weight = vit.head.weight.detach()
    assert weight.shape == (2000, 32)
    assert float(weight.mean()) == pytest.approx(0, abs=4 * 2e-5 / 64000**0.5)
    assert float(weight.std()) == pytest.approx(2e-5, rel=0.02)  # four deviations are 0.011
    kurtosis = float((weight**4).mean() / (weight**2).mean() ** 2)
    assert kurtosis == pytest.approx(3, abs=0.1)  # normal; a uniform one has 1.8
    assert not vit.head.bias.any()
    assert (vit.fc_norm.weight == 1).all()
    assert not vit.fc_norm.bias.any()
    assert vit.fc_norm.eps == 1e-6
    assert isinstance(vit.norm, nn.Identity)  # the final norm of pretraining is not used


def test_a_head_on_the_class_token_comes_after_the_final_norm():
    vit = small(pool="cls").encoder.vit
    assert isinstance(vit.norm, nn.LayerNorm)
    assert isinstance(vit.fc_norm, nn.Identity)


def test_positions_are_the_sine_cosine_table_and_trained():
    vit = small().encoder.vit
    assert vit.pos_embed.requires_grad
    assert torch.equal(vit.pos_embed.detach(), sincos_2d(32, (2, 2), 1).view(1, 5, 32))


# Outputs.


@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_logits_are_timms(pool, mode):
    made = small(pool=pool).train(mode)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # none at 0 or 1
    pooling = "avg" if pool == "mean" else "token"
    own = {"num_classes": 4, "img_size": 16, "patch_size": 8, "global_pool": pooling}
    vit = timm.create_model("vit_tiny_patch16_224", **own, **SIZES)
    vit.load_state_dict(made.encoder.vit.state_dict(), strict=True)
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(made.logits(images), vit.train(mode)(images))


def test_bytes_are_normalised():
    made = small().eval()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (made.arguments["mean"], [0.229, 0.224, 0.225])
    )
    assert torch.equal(made.logits(images), made.logits((images / 255 - mean) / std))


# Losses.


def test_smoothed_loss_is_timms():
    labels, logits = torch.tensor([0, 3, 1, 2]), torch.randn(4, 4)
    made = small(smoothing=0.1)
    found = made.losses(logits, made.mixing.targets(labels)).mean()
    torch.testing.assert_close(found, LabelSmoothingCrossEntropy(0.1)(logits, labels))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_loss_of_soft_targets_is_timms():
    logits, soft = torch.randn(4, 4), torch.rand(4, 4).softmax(1)
    found = small().losses(logits, soft).mean()
    torch.testing.assert_close(found, SoftTargetCrossEntropy()(logits, soft))


def test_loss_of_a_mixed_batch_is_timms():
    made = small(mixup=0.8, smoothing=0.1).double().train()
    whole = batch()
    images, targets = made.mixing(whole["image"], whole["label"], rand())
    want = SoftTargetCrossEntropy()(made.logits(images), targets)
    assert made(whole, rand())["loss"].item() == pytest.approx(want.item(), rel=1e-14)
    made.eval()
    plain = F.cross_entropy(made.logits(whole["image"]), whole["label"], label_smoothing=0.1)
    assert made(whole, rand())["loss"].item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("weights", [None, [2.0, 1.0, 0.5, 0.5]])
def test_loss_of_several_labels_is_torchs(weights):
    logits, truth = torch.randn(6, 4), torch.randint(0, 2, (6, 4)).float()
    made = small(multi_label=True, class_weights=weights)
    by_class = None if weights is None else torch.tensor(weights)
    want = F.binary_cross_entropy_with_logits(logits, truth, weight=by_class)
    torch.testing.assert_close(made.losses(logits, truth).mean(), want)
    out = made.double()({"image": batch(6)["image"], "label": truth.long()})
    assert out["loss"].dtype == torch.float64


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_torchs(smoothing):
    """Divided by the rows and not by the weights, so that micro-batches add up."""
    labels, logits = torch.tensor([0, 3, 1, 2, 0]), torch.randn(5, 4)
    made = small(class_weights=[2.0, 1.0, 0.5, 0.5], smoothing=smoothing)
    want = F.cross_entropy(
        logits, labels, made.class_weights, reduction="none", label_smoothing=smoothing
    )
    torch.testing.assert_close(made.losses(logits, made.mixing.targets(labels)), want)
    assert "class_weights" not in made.state_dict()


def test_losses_keep_float64_and_lift_bf16():
    made, logits, targets = small(), torch.randn(3, 4), torch.full((3, 4), 0.25)
    assert made.losses(logits.double(), targets).dtype == torch.float64
    assert made.losses(logits.bfloat16(), targets).dtype == torch.float32


# Randomness.


@pytest.mark.parametrize("given", [{}, STRONG, {"drop_path": 0.5}, {"mixup": 0.8}])
@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("size", [2, 4])
def test_micro_batches_add_up(size, step, given):
    """Drop path, mixing and smoothing on: loss and gradients of the whole and of parts, float64."""
    made, whole = small(**given).double().train(), batch()
    loss = made(whole, rand(step))["loss"]
    loss.backward()
    first = {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()
    parts = []
    for start in range(0, 8, size):
        part = {k: v[start : start + size] for k, v in whole.items()}
        out = made(part, rand(step).slice(start, start + size))
        (out["loss"] * size / 8).backward()
        parts.append(out["sample_loss"])
    assert torch.cat(parts).mean().item() == pytest.approx(loss.item(), rel=1e-12)
    assert len(first) == len(list(made.parameters()))
    for name, parameter in made.named_parameters():
        gap = (parameter.grad - first[name]).norm() / first[name].norm()
        assert float(gap) < 1e-12, name


def test_what_the_step_decides():
    """The same step is the same; another step, and no mixing or dropping, is another loss."""
    made, whole = small(**STRONG).double().train(), batch()
    state, before = torch.get_rng_state(), np.random.get_state()[1].copy()
    losses = [made(whole, rand(step))["loss"].item() for step in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], before)
    made.eval()
    assert made(whole, rand(3))["loss"].item() == made(whole)["loss"].item() != losses[0]


def test_without_rand_the_global_generator_drops_and_nothing_is_mixed():
    made, whole = small(**STRONG).double().train(), batch()
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(made(whole)["loss"].item())
    assert losses[0] == losses[1] != losses[2]
    made = small(mixup=0.8, cutmix=1.0, smoothing=0.1).double().train()
    want = F.cross_entropy(made.logits(whole["image"]), whole["label"], label_smoothing=0.1)
    assert made(whole)["loss"].item() == pytest.approx(want.item(), rel=1e-6)


def test_each_path_of_each_row_is_drawn_alone():
    """Shares of dropped rows are the rates, and paths are independent of each other."""
    made, rows = small(drop_path=0.3), 20_000
    made.draw_paths(rows, Rand(0, 0, 0.0, 0, rows), torch.device("cpu"))
    dropped = torch.stack([path.draw < path.rate for path in made.paths]).double()
    want = [0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    assert dropped.mean(1).tolist() == pytest.approx(want, abs=0.013)  # four deviations
    apart = torch.corrcoef(dropped[2:]) - torch.eye(6, dtype=torch.float64)
    assert float(apart.abs().max()) < 0.03


def test_an_odd_batch_cannot_be_mixed():
    with pytest.raises(UsageError, match="an even number of images at a time, not 3"):
        small(mixup=0.8).double().train()(batch(3), rand(rows=3))
    small(mixup=0.8).double().eval()(batch(3), rand(rows=3))
