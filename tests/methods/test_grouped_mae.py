"""MAE of channel groups: one group is MAE, losses by formula, masks of groups, what is refused."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor
from variant_models import BATCH, add_up, pictures, rand, same, train

import openmae
from openmae.errors import UsageError
from openmae.methods.classify import Classifier
from openmae.methods.detect import Detector
from openmae.methods.groupedmae import GroupedMAE
from openmae.methods.mae import MAE
from openmae.models.groups import group_table, resize_groups
from openmae.models.positions import sincos_2d
from openmae.weights import load_encoder, save_encoder
from openmae.weights.methodfile import load_method, save_method

GROUPS = [[0, 2], [1], [3, 4]]
SIZES = {
    "encoder": "vit_tiny_patch16_224", "image_size": (32, 48), "patch_size": 8, "in_chans": 5,
    "encoder_args": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4,
}  # fmt: skip
LENGTH = 24


def tiny(kind=GroupedMAE, **arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(**(SIZES | arguments)).double()
        with torch.no_grad():
            for parameter in (p for p in model.parameters() if p.requires_grad):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def grouped(**arguments) -> GroupedMAE:
    return tiny(channel_groups=GROUPS, **arguments)


@pytest.mark.parametrize("target", ["norm_pixels", "pixels"])
def test_one_group_is_mae(target):
    one, plain = tiny(channel_groups=[list(range(5))], target=target), tiny(MAE, target=target)
    assert one.state_dict().keys() == plain.state_dict().keys()
    one.load_state_dict(plain.state_dict())
    images = pictures(plain)
    for full in (False, True):
        ours, theirs = (m(images, rand=rand(), full=full) for m in (one, plain))
        assert torch.equal(ours["loss"], theirs["loss"])
        assert torch.equal(ours["sample_loss"], theirs["sample_loss"])
    step, other = train(one, images, rand=rand()), train(plain, images, rand=rand())
    assert step[0] == other[0]
    assert all(torch.equal(step[1][n], g) for n, g in other[1].items())
    assert "channel_groups" not in one.encoder.create


def test_training_path_is_the_plain_formulation():
    for options in ({}, {"group_masks": "same"}, {"target": "pixels"}, {"uniformity": 0.1}):
        model = grouped(**options)
        images = pictures(model)
        same(train(model, images, rand=rand()), train(model, images, rand=rand(), full=True))


def own_pixels(images: Tensor, group: list[int], place: int) -> Tensor:
    top, left = 8 * (place // 6), 8 * (place % 6)
    return images[:, group, top : top + 8, left : left + 8].permute(0, 2, 3, 1).flatten(1)


def test_loss_by_formula():
    """Every token of the encoder, every pair of patch and group, one after the other."""
    model = grouped()
    images, encoder, decoder = pictures(model), model.encoder, model.decoder
    vit, conv = encoder.vit, encoder.vit.patch_embed.proj
    out = model(images, rand=rand(), full=True)
    hidden = out["mask"].bool()
    assert hidden.shape == (BATCH, 3, LENGTH)
    assert (hidden.sum(2) == 18).all()
    table = group_table(32, (4, 6), 1, 3).double()
    torch.testing.assert_close(table, vit.pos_embed[0], rtol=0, atol=1e-7)
    total = []
    for b in range(BATCH):
        tokens, ids = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]], []
        for g, group in enumerate(GROUPS):
            for place in range(LENGTH):
                if not hidden[b, g, place]:
                    top, left = 8 * (place // 6), 8 * (place % 6)
                    cut = images[b, group, top : top + 8, left : left + 8]
                    x = (conv.weight[:, group] * cut).sum((1, 2, 3)) + conv.bias
                    tokens.append(x + vit.pos_embed[0, 1 + g * LENGTH + place])
                    ids.append(1 + g * LENGTH + place)
        x = torch.stack(tokens)[None]
        for block in vit.blocks:
            x = block(x)
        x = decoder.embed(vit.norm(x))
        rows = decoder.mask_token.expand(1, 1 + 3 * LENGTH, -1).clone()
        rows[:, 0], rows[:, ids] = x[:, 0], x[:, 1:]
        rows = rows + decoder.pos_embed
        for block in decoder.blocks:
            rows = block(rows)
        pred = decoder.pred(decoder.norm(rows))[0, 1:].view(3, LENGTH, 8, 8, 5)
        for g, group in enumerate(GROUPS):
            for place in range(LENGTH):
                if hidden[b, g, place]:
                    want = own_pixels(images[b : b + 1], group, place)[0]
                    want = (want - want.mean()) / (want.var() + 1e-6).sqrt()
                    got = pred[g, place][..., group].flatten()
                    total.append((got - want).square().mean())
    torch.testing.assert_close(out["loss"], torch.stack(total).mean(), rtol=1e-11, atol=0)


def test_masks_of_groups():
    model = grouped()
    mask = model(pictures(model), rand=rand(), full=True)["mask"]
    assert all((mask[:, a] != mask[:, b]).any(1).all() for a, b in ((0, 1), (0, 2), (1, 2)))
    plain = tiny(MAE)(pictures(model), rand=rand(), full=True)["mask"]
    assert torch.equal(mask[:, 0], plain), "the first group has the mask that MAE has"
    model = grouped(group_masks="same")
    mask = model(pictures(model), rand=rand(), full=True)["mask"]
    assert all(torch.equal(mask[:, g], plain) for g in range(3))


def test_gradient_flows_from_own_bands_only():
    """The prediction of a group's bands learns from tokens of that group alone."""
    model = grouped()
    images = pictures(model)
    noise = torch.rand(3 * BATCH, LENGTH, dtype=torch.float64, generator=torch.manual_seed(2))
    everything = train(model, images, noise=noise)[1]["decoder.pred.weight"]
    hidden = model.ids(BATCH, None, noise, masks=3)[1].view(BATCH, 3, -1)
    assert (everything.abs().sum(1) > 0).all()
    other = images.clone()
    other[:, 1] = torch.where(  # pixels of the second group change where they are hidden
        torch.zeros(BATCH, LENGTH, dtype=torch.bool).scatter(1, hidden[:, 1], True)
        .view(BATCH, 4, 6).repeat_interleave(8, 1).repeat_interleave(8, 2),
        torch.randn_like(other[:, 1]), other[:, 1],
    )  # fmt: skip
    changed = train(model, other, noise=noise)[1]["decoder.pred.weight"]
    same_rows = (changed == everything).all(1).view(64, 5).all(0)
    assert same_rows.tolist() == [True, False, True, True, True]


def test_micro_batches_add_up():
    model = grouped()
    add_up(model, pictures(model, 8))


def test_files_know_the_groups(tmp_path):
    model = grouped().float().eval()
    images = pictures(model).float()
    save_method(tmp_path / "m.safetensors", model)
    again = load_method(tmp_path / "m.safetensors").eval()
    assert type(again) is GroupedMAE
    assert torch.equal(again(images, rand=rand())["loss"], model(images, rand=rand())["loss"])
    save_encoder(tmp_path / "e.safetensors", model.encoder, {})
    encoder = openmae.load(tmp_path / "e.safetensors")
    assert encoder.groups == ((0, 2), (1,), (3, 4))
    assert torch.equal(encoder(images), model.encoder(images))
    assert encoder(images).shape == (BATCH, 1 + 3 * LENGTH, 32)
    create = load_encoder(tmp_path / "e.safetensors").create
    with pytest.raises(TypeError, match="channel_groups"):
        timm.create_model(**create)  # it cannot be taken for a plain ViT


def test_a_classifier_has_them_too():
    sizes = {k: SIZES[k] for k in ("encoder", "image_size", "patch_size", "in_chans")}
    args = SIZES["encoder_args"] | {"channel_groups": GROUPS}
    model = Classifier(**sizes, encoder_args=args, classes=["a", "b"], pool="mean")
    assert len(model.encoder.groups) == 3
    images = torch.randn(2, 5, 32, 48, generator=torch.manual_seed(0))
    mean = model.encoder(images)[:, 1:].mean(1)
    assert mean.shape == (2, 32)


def test_positions():
    table = group_table(32, (4, 6), 1, 3)
    rows = table[1:].view(3, 24, 32)
    assert torch.equal(rows[0, :, :24], rows[2, :, :24])
    torch.testing.assert_close(rows[1, :, :24], sincos_2d(24, (4, 6)))
    assert (rows[:, :1, 24:] == rows[:, :, 24:]).all()
    assert not torch.equal(rows[0, 0, 24:], rows[1, 0, 24:])
    assert not table[0].any()
    assert torch.equal(group_table(32, (4, 6), 1, 1), sincos_2d(32, (4, 6), 1))
    assert torch.equal(resize_groups(table[None], (4, 6), (4, 6), 1, 3)[0], table)
    larger = resize_groups(table[None], (4, 6), (8, 12), 1, 3)
    assert larger.shape == (1, 1 + 3 * 96, 32)
    torch.testing.assert_close(larger[0, 1:97, 24:], table[1:2, 24:].expand(96, -1))


REFUSED = {
    "missing": ({"channel_groups": [[0, 1]]}, "each of 5 channels once"),
    "twice": ({"channel_groups": [[0, 1, 2], [2, 3, 4]]}, "each of 5 channels once"),
    "empty": ({"channel_groups": [[0, 1, 2, 3, 4], []]}, "each of 5 channels once"),
    "cross": ({"decoder": "cross"}, "not built for decoder"),
    "tokens": ({"mask_tokens": "encoder"}, "not built for mask_tokens"),
    "masks": ({"masks": 2}, "not built for masks"),
    "target": ({"target": "hog"}, "predict pixels or norm_pixels"),
    "grid": ({"mask": "grid"}, "group-masks same"),
    "width": ({"encoder_args": {"embed_dim": 24, "depth": 1, "num_heads": 2}}, "divides by 16"),
    "decoder": ({"decoder_dim": 24}, "decoder-dim that divides by 16"),
    "mode": ({"group_masks": "other"}, "independent or same"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    arguments, words = REFUSED[case]
    with pytest.raises(UsageError, match=words) as found:
        tiny(**({"channel_groups": GROUPS} | arguments))
    assert len(str(found.value).splitlines()) == 1


def test_maps_are_refused():
    sizes = {k: SIZES[k] for k in ("encoder", "patch_size", "in_chans")}
    args = SIZES["encoder_args"] | {"channel_groups": GROUPS}
    with pytest.raises(UsageError, match="one token a patch"):
        Detector(**sizes, image_size=32, encoder_args=args, classes=["a"])
