"""The detector: losses of each image by itself, its randomness, what is trained, any channels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import fastrcnn_loss

from openmae.errors import UsageError
from openmae.methods import METHODS
from openmae.methods.detect import Detector
from openmae.randomness import Rand

SMALL = {
    "encoder": "vit_tiny_patch16_224",
    "image_size": (32, 48),
    "patch_size": 8,
    "encoder_args": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "window": 3,
    "pyramid_dim": 8,
    "regions": 16,
}
BOXES = ([[4.0, 4, 20, 28], [22, 6, 44, 20]], [], [[8.0, 8, 30, 24]])


def small(**more) -> Detector:
    torch.manual_seed(0)
    return Detector(**{**SMALL, "classes": list("abc"), **more}).double().train()


def batch(chans: int = 3) -> dict[str, object]:
    boxes = [torch.tensor(b).reshape(-1, 4) for b in BOXES]
    masks = []
    for own in boxes:
        mask = torch.zeros(len(own), 32, 48, dtype=torch.uint8)
        for i, (x1, y1, x2, y2) in enumerate(own.int().tolist()):
            mask[i, y1:y2, x1:x2] = 1
        masks.append(mask)
    image = torch.randn(3, chans, 32, 48, generator=torch.Generator().manual_seed(1)).double()
    labels = [torch.arange(len(b)) for b in boxes]
    return {"image": image, "boxes": boxes, "labels": labels, "masks": masks}


def part(given: dict[str, object], start: int, stop: int) -> dict[str, object]:
    return {name: values[start:stop] for name, values in given.items()}


def rand(first: int = 6, rows: int = 3) -> Rand:
    return Rand(0, 2, 0.5, first, rows)


def gradients(model: Detector) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_micro_batches_add_up():
    """Loss, terms and gradients of three images at once and one by one."""
    model, given = small(drop_path=0.2), batch()
    whole = model(given, rand())
    whole["loss"].backward()
    expected = gradients(model)
    model.zero_grad()
    for i in range(3):
        out = model(part(given, i, i + 1), rand().slice(i, i + 1))
        (out["loss"] / 3).backward()
        torch.testing.assert_close(
            out["sample_loss"][0], whole["sample_loss"][i], atol=1e-12, rtol=0
        )
    for name, found in gradients(model).items():
        scale = max(float(expected[name].abs().max()), 1.0)
        assert float((found - expected[name]).abs().max()) < 1e-11 * scale, name


def test_every_parameter_that_is_trained_has_a_gradient_also_without_objects():
    model = small()
    model(part(batch(), 1, 2), rand(7, 1))["loss"].backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"encoder.vit.cls_token", "encoder.vit.norm.weight", "encoder.vit.norm.bias"}


def test_the_draws_decide_and_nothing_else():
    model, given = small(drop_path=0.5), batch()
    torch.manual_seed(1)
    first = model(given, rand())["loss"]
    torch.manual_seed(2)
    assert torch.equal(model(given, rand())["loss"], first)
    assert not torch.equal(model(given, rand(9))["loss"], first)


def test_terms_are_named_and_sum_to_the_loss():
    out = small()(batch(), rand())
    terms = {n: v for n, v in out.items() if n.startswith("loss_")}
    assert set(terms) == {"loss_objectness", "loss_anchors", "loss_class", "loss_box", "loss_mask"}
    torch.testing.assert_close(sum(terms.values()), out["loss"].detach())
    assert "loss_mask" not in small(masks=False)(batch(), rand())


def test_the_losses_of_the_heads_are_torchvisions_for_one_image():
    """On the same regions: class and box of `fastrcnn_loss`."""
    model = small()
    heads = model.heads
    boxes = torch.tensor(BOXES[0], dtype=torch.float64)
    maps = model.maps(batch()["image"][:1])
    noise = torch.rand(1, 2048, generator=torch.Generator().manual_seed(0))
    regions = torch.tensor([[2.0, 2, 22, 30], [30, 2, 46, 30], [0, 0, 8, 8]]).double()
    targets = {"boxes": [boxes], "labels": [torch.tensor([2, 0])], "masks": batch()["masks"][:1]}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for p in heads.box_predictor.parameters():
            torch.nn.init.normal_(p, std=0.1)
    found = heads.losses(maps, [regions], targets, noise)
    # by hand: the first region is on object 0 (class 2), both objects are regions of themselves
    every = torch.cat([regions, boxes])
    truth = torch.tensor([3, 0, 0, 3, 1])
    logits, offsets = heads._boxes(maps, [every])
    wanted = heads.coder.encode_single(boxes[[0, 0, 0, 0, 1]], every)
    expected = fastrcnn_loss(logits, offsets, [truth], [wanted])
    torch.testing.assert_close(found["loss_class"][0], expected[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(found["loss_box"][0], expected[1], atol=1e-12, rtol=0)


def test_the_objectness_of_an_empty_image_is_that_of_background():
    model = small()
    found = model.proposals(model.maps(batch()["image"][1:2]))
    noise = torch.rand(1, found[0].shape[1], generator=torch.Generator().manual_seed(0))
    out = model.proposals.losses(found, [torch.zeros(0, 4).double()], noise)
    at = noise[0].argsort(stable=True)[:256]
    expected = F.softplus(found[0][0, at]).mean()
    torch.testing.assert_close(out["loss_objectness"][0], expected, atol=1e-12, rtol=0)
    assert float(out["loss_anchors"].detach()) == 0


def test_a_frozen_encoder_has_no_gradient():
    model = small(frozen=True)
    model(batch(), rand())["loss"].backward()
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.grad is None for p in model.encoder.parameters())
    assert model.pyramid.outputs[0][0].weight.grad is not None
    assert model.relative is None


def test_groups_of_the_optimiser_decay_by_layer():
    groups = small().param_groups(0.1, 0.5)
    scale = {n: (g["lr_scale"], g["weight_decay"]) for g in groups for n, _ in g["params"]}
    assert scale["encoder.vit.patch_embed.proj.weight"] == (0.125, 0.1)
    assert scale["encoder.vit.pos_embed"] == (0.125, 0.0)
    assert scale["encoder.vit.blocks.0.attn.qkv.weight"] == (0.25, 0.1)
    assert scale["encoder.vit.blocks.1.mlp.fc1.bias"] == (0.5, 0.0)
    assert scale["relative.rows.0"] == (1.0, 0.0)
    assert scale["heads.box_predictor.cls_score.weight"] == (1.0, 0.1)
    trained = {n for n, p in small().named_parameters() if p.requires_grad}
    assert set(scale) == trained


def test_detections_lie_in_the_image_and_come_best_first():
    model = small(in_chans=13, mean=[0.0] * 13, std=[1.0] * 13).eval()
    model.heads.score = 0.0
    found = model.detect(batch(13)["image"], [(32, 48), (16, 48), (32, 20)])
    for own, (height, width) in zip(found, ((32, 48), (16, 48), (32, 20)), strict=True):
        boxes = own["boxes"]
        assert 0 < len(boxes) <= 100
        assert bool((boxes >= 0).all())
        assert float(boxes[:, 2].max()) <= width
        assert float(boxes[:, 3].max()) <= height
        assert torch.equal(own["scores"], own["scores"].sort(descending=True).values)
        assert own["masks"].shape == (len(boxes), 28, 28)
        assert set(own["labels"].tolist()) <= {0, 1, 2}


def test_half_precision_is_near():
    model = small().float()
    given = batch() | {"image": batch()["image"].float()}
    exact = model(given, rand())
    with torch.autocast("cpu", torch.bfloat16):
        near = model(given, rand())
    assert near["loss"].dtype == torch.float32
    torch.testing.assert_close(near["loss"], exact["loss"], rtol=0.05, atol=0.02)
    near["loss"].backward()
    assert all(torch.isfinite(g).all() for g in gradients(model).values())


def test_it_learns_one_image():
    model = small().float()
    given = part(batch(), 0, 1) | {"image": batch()["image"][:1].float()}
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for step in range(40):
        out = model(given, Rand(0, step, 0, step, 1))
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(out["loss"].detach()))
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_the_record_makes_it_again():
    model = small(global_blocks=[0], relative=False)
    again = METHODS["detect"](**model.arguments)
    again.double().load_state_dict(model.state_dict())
    assert again.arguments == model.arguments


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"patch_size": (8, 4)}, "square patches"),
        ({"encoder": "vit_tiny_patch16_22"}, "Closest"),
        ({"global_blocks": [7]}, "0 to 1"),
    ],
)
def test_what_cannot_be_built_is_refused(more, words):
    with pytest.raises(UsageError, match=words):
        small(**more)
