"""The cheaper variants of MAE: each against a plain formulation, in float64, loss and gradients.

Cross-attention decoder with and without fusion, partial prediction, several masks of an image.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from variant_models import (
    BATCH,
    CROSS,
    FUSED,
    HIDDEN,
    LENGTH,
    add_up,
    pictures,
    rand,
    refused,
    same,
    tiny,
    train,
)

from openmae.models.masking import MASKS
from openmae.models.patches import patchify, take
from openmae.weights import load
from openmae.weights.methodfile import save_method

# The training path is the plain formulation.


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("variant", [CROSS, FUSED], ids=["cross", "fused"])
def test_cross_attention_is_its_plain_formulation(variant, depth, prefix):
    more = {0: {"class_token": False}, 1: {}}.get(prefix, {"reg_tokens": prefix - 1})
    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 2, **more}
    model = tiny(**variant, decoder_depth=depth, encoder_args=sizes)
    assert model.encoder.num_prefix_tokens == prefix
    images = pictures(model)
    same(train(model, images, rand=rand()), train(model, images, rand=rand(), full=True))


@pytest.mark.parametrize("mask", ["random", "block"])
@pytest.mark.parametrize("masks", [1, 3])
@pytest.mark.parametrize("predict", [0.1, 1 / 3, 0.5, 1])
def test_partial_prediction_is_its_plain_formulation(predict, masks, mask):
    model = tiny(**FUSED, predict=predict, masks=masks, mask=mask, target="pixels")
    images = pictures(model)
    same(train(model, images, rand=rand()), train(model, images, rand=rand(), full=True))


@pytest.mark.parametrize("variant", [{}, CROSS], ids=["self", "cross"])
@pytest.mark.parametrize("full", [False, True])
def test_k_masks_are_the_mean_of_k_single_ones(full, variant):
    model = tiny(**variant, masks=3)
    images, noise = pictures(model), rand(3 * BATCH).uniform("mask", (3 * BATCH, LENGTH))
    ours = train(model, images, noise=noise, full=full)
    single = tiny(**variant)
    parts = [train(single, images, noise=noise[k::3]) for k in range(3)]
    loss = sum(part[0] for part in parts) / 3
    same(ours, (loss, {n: sum(p[1][n] for p in parts) / 3 for n in ours[1]}))
    samples = torch.stack([single(images, noise=noise[k::3])["sample_loss"] for k in range(3)])
    found = model(images, noise=noise, full=full)["sample_loss"]
    torch.testing.assert_close(found, samples.mean(0), rtol=1e-12, atol=0)
    assert (samples.std(0) > 1e-4).all(), "the masks differ"


def test_k_masks_draw_the_first_as_one_does_and_others_anew():
    model, images = tiny(masks=2), pictures(tiny())
    masks = model(images, rand=rand(), full=True)["mask"].unflatten(0, (BATCH, 2))
    single = tiny()(images, rand=rand(), full=True)["mask"]
    assert (masks[:, 0] == single).all()
    assert (masks[:, 1] != masks[:, 0]).any(dim=1).all()
    assert (masks.sum(2) == HIDDEN).all()


@pytest.mark.parametrize("variant", [{"masks": 3}, {**CROSS, "predict": 0.5, "masks": 2}])
def test_micro_batches_change_nothing(variant):
    add_up(tiny(**variant), pictures(tiny(), 8))


# The decoder.


def test_fusion_of_the_last_block_alone_is_no_fusion():
    """The sums go through the encoder's final norm, as the last block's output does without."""
    plain, fused = tiny(**CROSS), tiny(**FUSED)
    fused.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        fused.decoder.fusion.weight.zero_()[:, -1] = 1
    images = pictures(plain)
    want, found = (train(m, images, rand=rand()) for m in (plain, fused))
    assert found[1].pop("decoder.fusion.weight").norm() > 1e-6
    same(found, want)


def test_fusion_by_formula():
    model, images = tiny(**FUSED), pictures(tiny())
    kept, hidden = model.ids(BATCH, rand().uniform)
    outputs: list[Tensor] = []
    hooks = [
        b.register_forward_hook(lambda *a: outputs.append(a[2])) for b in model.encoder.vit.blocks
    ]
    patches = patchify(images, (8, 8))
    model.encoder.encode_kept(take(patches, kept), kept)
    for hook in hooks:
        hook.remove()
    weight = model.decoder.fusion.weight
    sums = [sum(w * f for w, f in zip(row, outputs, strict=True)) for row in weight]
    pred = model.decoder(torch.stack([model.encoder.vit.norm(s) for s in sums]), kept, hidden)
    true = take(patches, hidden)
    true = (true - true.mean(-1, keepdim=True)) / (true.var(-1, keepdim=True) + 1e-6).sqrt()
    want = (pred - true).square().mean().item()
    assert model(images, rand=rand())["loss"].item() == pytest.approx(want, rel=1e-13)


@pytest.mark.parametrize("variant", [CROSS, FUSED], ids=["cross", "fused"])
def test_the_class_token_learns_through_keys_and_values_alone(variant):
    """It has no query here, and yet a gradient; when no value of it can be read, it has none."""
    model, images = tiny(**variant), pictures(tiny())
    _, found = train(model, images, rand=rand())
    assert found["encoder.vit.cls_token"].norm() > 1e-4

    def without_prefix(module, arguments):
        x, context, *rest = arguments
        return (x, context[:, 1:], *rest)

    for block in model.decoder.blocks:
        block.register_forward_pre_hook(without_prefix)
    with torch.no_grad():  # nor may patches pass it on inside the encoder
        for block in model.encoder.vit.blocks:
            block.attn.proj.weight.zero_()
            block.attn.proj.bias.zero_()
    model.zero_grad(set_to_none=True)
    model(images, rand=rand())["loss"].backward()
    assert model.encoder.vit.cls_token.grad.norm() == 0


def test_the_loss_is_that_of_an_exact_subset():
    model, images = tiny(**CROSS, predict=1 / 3), pictures(tiny())
    out = model(images, rand=rand(), full=True)
    assert (out["mask"].sum(1) == 6).all()
    assert (out["hidden"].sum(1) == HIDDEN).all()
    assert (out["mask"] <= out["hidden"]).all()
    whole = tiny(**CROSS)(images, rand=rand(), full=True)
    assert "hidden" not in whole
    assert (whole["mask"] == out["hidden"]).all()
    torch.testing.assert_close(whole["pred"], out["pred"], rtol=0, atol=1e-13)
    true = patchify(images, (8, 8))
    true = (true - true.mean(-1, keepdim=True)) / (true.var(-1, keepdim=True) + 1e-6).sqrt()
    each = (out["pred"] - true).square().mean(-1)
    want = (each * out["mask"]).sum() / out["mask"].sum()
    assert out["loss"].item() == pytest.approx(want.item(), rel=1e-13)


@pytest.mark.parametrize("mask", ["random", "block"])
def test_every_hidden_patch_is_as_likely_to_be_predicted(mask):
    model, rows = tiny(**CROSS, predict=1 / 3, mask=mask), 3000
    source = rand(rows)
    _, hidden = model.ids(rows, source.uniform)
    shown = model._predicted(hidden, rows, source.uniform, 1)
    assert shown.shape == (rows, 6)
    assert (shown.sort(1).values.diff(dim=1) > 0).all()
    hits = (hidden[:, :, None] == shown[:, None, :]).any(2).double().mean(0)  # by rank in the mask
    assert (hits - 1 / 3).abs().max() < 0.04
    again = model._predicted(hidden, rows, source.uniform, 1)
    assert (again == shown).all()


@pytest.mark.parametrize("variant", [{"masks": 3}, {**CROSS, "predict": 0.3, "masks": 2}])
def test_evaluation_has_one_mask_and_every_hidden_patch(variant):
    model, plain = tiny(**variant).eval(), tiny(**{**variant, "masks": 1, "predict": 1.0})
    images = pictures(model)
    found, want = (m(images, rand=rand(), full=True) for m in (model, plain))
    assert found.keys() == want.keys() == {"loss", "sample_loss", "pred", "mask"}
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("variant", [CROSS, FUSED, {**CROSS, "predict": 0.5}, {"masks": 3}])
def test_it_learns_a_batch_by_heart(variant):
    model = tiny(**variant, target="pixels").float()
    model.encoder.initialise()
    model.decoder.initialise()
    images, noise = pictures(model).float(), rand(3 * BATCH).uniform("mask", (3 * BATCH, LENGTH))
    optimizer, found = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(60):
        loss = model(images, rand=rand(), noise=noise[: BATCH * model.masks])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.75 * found[0]


# What does not fit together, and files.

REFUSED = {
    "unknown": ({"decoder": "crosss"}, "should be self or cross"),
    "fusion": ({"fusion": True, "mask_tokens": "encoder"}, "fusion needs mask_tokens='decoder'"),
    "predict": ({"predict": 0.5}, "need decoder='cross'"),
    "predict 0": ({**CROSS, "predict": 0}, r"must be in \(0, 1\]"),
    "predict 2": ({**CROSS, "predict": 2}, r"must be in \(0, 1\]"),
    "masks": ({"masks": 0}, "masks 0 >= 1"),
    "grid": ({"masks": 2, "mask": "grid"}, "a grid mask is the same every time"),
    "size": ({"sizes": [(20, 24)]}, "20x24 do not divide into patches of 8x8"),
    "mask at a size": ({"sizes": [(24, 24)], "mask": "grid"}, "needs sides that divide by 2"),
    "ratio at a size": ({"sizes": [(8, 16)]}, "keeps 0 of 2 patches"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    arguments, words = REFUSED[case]
    refused(words, **arguments)


def test_noise_has_a_row_for_each_mask():
    model = tiny(masks=2)
    with pytest.raises(ValueError, match=r"noise must be \(8, 24\), not \(4, 24\)"):
        model(pictures(model), noise=torch.zeros(BATCH, LENGTH))


def test_a_mask_of_your_own_is_drawn_k_times():
    def mine(grid, uniform, batch, ratio):
        return MASKS["random"](grid, uniform, batch, ratio).flip(1)

    model = tiny(mask=mine, masks=2)
    masks = model(pictures(model), rand=rand(), full=True)["mask"]
    assert (masks[0] != masks[1]).any()


def test_saved_and_loaded(tmp_path):
    model = tiny(**FUSED, predict=0.5, masks=2, sizes=[(16, 24)]).float()
    save_method(tmp_path / "m.safetensors", model)
    again = load(tmp_path / "m.safetensors")
    images = pictures(model).float()
    want = model.eval()(images, rand=rand())["loss"]
    assert again(images, rand=rand())["loss"].item() == want.item()
    assert (again.predict, again.masks, again.arguments["sizes"]) == (0.5, 2, [[16, 24]])
