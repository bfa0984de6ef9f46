"""Layer decay, weight decay, learning rates and freezing of the classifier, against values computed
by hand and against timm.
"""

from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from openmae.engine.loop import Plan, State, training_step
from openmae.engine.optim import Schedule, absolute_lr, adamw
from openmae.errors import UsageError
from openmae.methods.classify import Classifier

SMALL = {
    "encoder": "vit_tiny_patch16_224",
    "image_size": 16,
    "patch_size": 8,
    "encoder_args": {"embed_dim": 32, "depth": 4, "num_heads": 2},
}
VIT_B = "vit_base_patch16_224"
POWERS = (
    0.023757264, 0.031676352, 0.042235136, 0.056313515, 0.075084686, 0.100112915, 0.133483887,
    0.177978516, 0.237304688, 0.31640625, 0.421875, 0.5625, 0.75, 1.0,
)  # fmt: skip
"""0.75 ** 13 to 0.75 ** 0: what layers 0 to 13 of ViT-B multiply the learning rate with."""


def small(**more) -> Classifier:
    torch.manual_seed(0)
    return Classifier(**SMALL, classes=list("abcd"), **more)


def published(pool: str = "mean") -> dict[str, tuple[int, bool]]:
    """Every parameter of ViT-B with its layer and whether it is decayed, written down by hand."""
    norm = "fc_norm" if pool == "mean" else "norm"
    table = {"cls_token": (0, False), "pos_embed": (0, False)}
    table |= {"patch_embed.proj.weight": (0, True), "patch_embed.proj.bias": (0, False)}
    for i in range(12):
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            table[f"blocks.{i}.{name}.weight"] = (i + 1, True)
            table[f"blocks.{i}.{name}.bias"] = (i + 1, False)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            table[f"blocks.{i}.{name}"] = (i + 1, False)
    table |= {f"{norm}.weight": (13, False), f"{norm}.bias": (13, False)}
    return table | {"head.weight": (13, True), "head.bias": (13, False)}


def rates(method: Classifier, decay: float = 0.75) -> dict[str, tuple[float, float]]:
    """Name -> (scale of the learning rate, weight decay); each parameter must come once."""
    found: dict[str, tuple[float, float]] = {}
    own = dict(method.named_parameters())
    for group in method.param_groups(0.05, decay):
        for name, parameter in group["params"]:
            assert parameter is own[name]
            assert name not in found
            found[name.removeprefix("encoder.vit.")] = (group["lr_scale"], group["weight_decay"])
    assert len(found) == sum(p.requires_grad for p in own.values())
    return found


# Layer decay.


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_every_parameter_of_vit_b_has_its_published_rate(pool):
    with torch.device("meta"):
        made = Classifier(VIT_B, classes=[str(i) for i in range(1000)], pool=pool)
    assert {p.device.type for p in made.parameters()} == {"meta"}
    found, table = rates(made), published(pool)
    assert len(table) == 152
    assert found.keys() == table.keys()
    for name, (layer, decayed) in table.items():
        scale, decay = found[name]
        print(f"{name:32} layer {layer:2}  rate x {scale:.6f}  weight decay {decay:g}")
        assert scale == pytest.approx(POWERS[layer], rel=1e-7), name
        assert decay == (0.05 if decayed else 0.0), name


def test_groups_are_those_of_timm():
    """timm's own layer decay, which writes them from the model's `group_matcher`."""
    with torch.device("meta"):
        made = Classifier(VIT_B, classes=list("abc"))
        vit = timm.create_model(VIT_B, num_classes=3, global_pool="avg")
    names = {id(p): n for n, p in vit.named_parameters()}
    skipped = vit.no_weight_decay()
    theirs = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(vit, 0.05, skipped, layer_decay=0.65)
        for p in group["params"]
    }
    found = rates(made, 0.65)
    assert found.keys() == theirs.keys()
    assert all(found[name] == pytest.approx(theirs[name], rel=1e-12) for name in theirs)


def test_no_layer_decay_is_one_rate():
    """Training from scratch (Table 11)."""
    assert {scale for scale, _ in rates(small(), 1.0).values()} == {1.0}


def test_groups_are_few_and_the_optimiser_takes_them():
    made = small()
    optimizer = adamw(made, 1.0, (0.9, 0.999), 0.05, made.param_groups(0.05, 0.75))
    assert len(optimizer.param_groups) == 2 * 6
    scales = [g["lr_scale"] for g in optimizer.param_groups]
    assert scales == sorted(scales)
    assert scales[::2] == pytest.approx([0.75**k for k in (5, 4, 3, 2, 1, 0)], rel=1e-15)
    inside = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert inside == {id(p) for p in made.parameters()}


# The learning rate of each step.


def test_the_rate_of_each_step_is_the_published_one():
    """Five epochs of warm-up from 0, half a cosine to the minimum, in fractions of an epoch; then
    times the layer's scale: as the official code writes it. Taken from the optimiser after a step.
    """
    epochs, warmup, steps, batch = 10, 5, 4, 8
    peak, least = absolute_lr(1e-3, batch), absolute_lr(2.5e-4, batch)
    assert (peak, least) == pytest.approx((1e-3 * 8 / 256, 2.5e-4 * 8 / 256), rel=1e-15)
    made = small()
    optimizer = adamw(made, 1.0, (0.9, 0.999), 0.05, made.param_groups(0.05, 0.75))
    schedule = Schedule(peak, least, warmup * steps, epochs * steps)
    plan = Plan(epochs * steps, batch, batch, schedule, 0, torch.device("cpu"), "fp32", 8 * steps)
    state = State(made.train(), optimizer, None)
    images = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for number in range(epochs * steps):
        training_step(state, {"image": images, "label": torch.arange(batch) % 4}, plan)
        epoch = number / steps
        if epoch < warmup:
            rate = peak * epoch / warmup
        else:
            share = (epoch - warmup) / (epochs - warmup)
            rate = least + (peak - least) * 0.5 * (1.0 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            power = round(math.log(group["lr_scale"]) / math.log(0.75))
            assert 0 <= power <= 5
            assert group["lr"] == pytest.approx(rate * 0.75**power, rel=1e-12, abs=1e-18)


def test_rates_of_the_official_recipe():
    """FINETUNE page, ViT-B: 2e-3 at the peak and 1e-6 at the end, at a batch of 1,024."""
    assert absolute_lr(5e-4, 1024) == pytest.approx(2e-3, rel=1e-15)
    assert absolute_lr(2.5e-7, 1024) == pytest.approx(1e-6, rel=1e-15)


def test_layers_move_by_their_rates():
    """Adam's first step has the size of the rate: the head moves most, the embedding least."""
    made = small()
    torch.nn.init.normal_(made.encoder.vit.head.weight, std=0.5)
    before = {n: p.detach().clone() for n, p in made.named_parameters()}
    optimizer = adamw(made, 1.0, (0.9, 0.999), 0.0, made.param_groups(0.0, 0.5))
    plan = Plan(10, 8, 8, Schedule(1e-4, 0.0, 0, 10), 0, torch.device("cpu"), "fp32", 8)
    batch = {"image": torch.randn(8, 3, 16, 16), "label": torch.arange(8) % 4}
    training_step(State(made.train(), optimizer, None), batch, plan)
    for name, layer in (
        ("patch_embed.proj.weight", 0),
        ("blocks.0.mlp.fc1.weight", 1),
        ("blocks.3.mlp.fc2.weight", 4),
        ("head.weight", 5),
    ):
        key = f"encoder.vit.{name}"
        moved = (made.state_dict()[key] - before[key]).abs().median()
        assert float(moved) == pytest.approx(1e-4 * 0.5 ** (5 - layer), rel=0.01)


# What is trained.


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize(
    ("blocks", "trained"),
    [
        (None, None),
        (0, set()),
        (0.5, {"blocks.3.norm2", "blocks.3.mlp"}),
        (1, {"blocks.3"}),
        (1.5, {"blocks.2.norm2", "blocks.2.mlp", "blocks.3"}),
        (2, {"blocks.2", "blocks.3"}),
        (4, {"blocks.0", "blocks.1", "blocks.2", "blocks.3"}),
    ],
)
def test_blocks_train_the_last_ones_and_the_head(blocks, trained, pool):
    made = small(blocks=blocks, pool=pool)
    found = {n.removeprefix("encoder.vit.") for n, p in made.named_parameters() if p.requires_grad}
    names = {n.removeprefix("encoder.vit.") for n, _ in made.named_parameters()}
    if trained is None:
        assert found == names  # positions as well
    else:
        norm = "fc_norm." if pool == "mean" else "norm."
        starts = (*(f"{t}." for t in trained), norm, "head.")
        assert found == {n for n in names if n.startswith(starts)}
    assert rates(made).keys() == found


@pytest.mark.parametrize("blocks", [5, 0.25, 4.5, -1])
def test_blocks_that_are_not_there(blocks):
    with pytest.raises(UsageError, match="give 0 to 4"):
        small(blocks=blocks)


@pytest.mark.parametrize("blocks", [0, 0.5, 1])
def test_a_step_leaves_frozen_parameters_as_they_are(blocks):
    made = small(blocks=blocks)
    torch.nn.init.normal_(made.encoder.vit.head.weight, std=0.5)
    before = {n: p.detach().clone() for n, p in made.named_parameters()}
    optimizer = adamw(made, 1.0, (0.9, 0.999), 0.05, made.param_groups(0.05, 0.75))
    plan = Plan(10, 8, 8, Schedule(1e-3, 0.0, 0, 10), 0, torch.device("cpu"), "fp32", 8)
    batch = {"image": torch.randn(8, 3, 16, 16), "label": torch.arange(8) % 4}
    training_step(State(made.train(), optimizer, None), batch, plan)
    moved = {n for n, p in made.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in made.named_parameters() if p.requires_grad}
