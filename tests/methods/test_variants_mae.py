"""The cheaper variants of MAE: each against a plain formulation, in float64, loss and gradients.

Cross-attention decoder with and without fusion, partial prediction, several masks of an image, and
other image sizes.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openmae.errors import UsageError
from openmae.methods import MAE
from openmae.models.masking import MASKS
from openmae.models.patches import patchify, take
from openmae.randomness import Rand
from openmae.weights import load
from openmae.weights.methodfile import save_method

BATCH, LENGTH, HIDDEN = 4, 24, 18
CROSS = {"decoder": "cross"}
FUSED = {"decoder": "cross", "fusion": True}


def tiny(**arguments) -> MAE:
    """A small float64 model with random weights, in training mode."""
    given = {
        "encoder": "vit_tiny_patch16_224", "image_size": (32, 48), "patch_size": 8,
        "encoder_args": {"embed_dim": 32, "depth": 3, "num_heads": 2},
        "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MAE(**(given | arguments)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
                parameter.add_(0.2 * noise)
    return model


def pictures(model: MAE, batch: int = BATCH, size: tuple[int, int] | None = None) -> Tensor:
    shape = (batch, model.encoder.in_chans, *(size or model.encoder.image_size))
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rand(rows: int = BATCH, first: int = 0) -> Rand:
    return Rand(seed=0, step=0, progress=0.0, first=first, rows=rows)


Step = tuple[float, dict[str, Tensor]]


def gradients(model: MAE) -> dict[str, Tensor]:
    """The gradient of every parameter that is trained; the biases of keys are left out."""
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, f"{name} has no gradient"
        gradient = parameter.grad.clone()
        if name.endswith("qkv.bias"):
            gradient[len(gradient) // 3 : 2 * len(gradient) // 3] = 0
        elif name.endswith("attn.kv.bias"):
            gradient[: len(gradient) // 2] = 0
        found[name] = gradient
    return found


def train(model: MAE, images: Tensor, **call) -> Step:
    model.zero_grad(set_to_none=True)
    loss = model(images, **call)["loss"]
    loss.backward()
    return loss.item(), gradients(model)


def gap(ours: Step, reference: Step) -> tuple[float, float]:
    """Relative differences of the loss, and of the gradients by each tensor's norm."""
    assert ours[1].keys() == reference[1].keys()
    most = 0.0
    for name, want in reference[1].items():
        assert want.norm() > 1e-9, f"{name}: a zero gradient shows nothing"
        most = max(most, ((ours[1][name] - want).norm() / want.norm()).item())
    return abs(ours[0] - reference[0]) / abs(reference[0]), most


def same(ours: Step, reference: Step) -> None:
    loss, gradient = gap(ours, reference)
    assert loss < 1e-13
    assert gradient < 1e-12


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
    model, images, source = tiny(**variant), pictures(tiny(), 8), rand(8, first=40)
    whole = train(model, images, rand=source)
    model.zero_grad(set_to_none=True)
    total = 0.0
    for start in (0, 4):
        out = model(images[start : start + 4], rand=source.slice(start, start + 4))
        (out["loss"] / 2).backward()
        total += out["loss"].item() / 2
    same((total, gradients(model)), whole)


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


# Other image sizes.


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("prefix", [0, 5])
@pytest.mark.parametrize("variant", [{}, {**FUSED, "predict": 0.5}], ids=["self", "cross"])
def test_another_size_is_the_model_of_that_size(variant, prefix, full):
    more = {"class_token": False} if prefix == 0 else {"reg_tokens": 4}
    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 2, **more}
    model = tiny(**variant, encoder_args=sizes, sizes=[(16, 32), (24, 32)])
    for size in ((16, 32), (24, 32)):
        small = tiny(**variant, encoder_args=sizes, image_size=size)
        own = {n: t for n, t in model.state_dict().items() if not n.endswith("pos_embed")}
        small.load_state_dict(own, strict=False)
        images = pictures(model, size=size)
        found = train(model, images, rand=rand(), full=full)
        same(found, train(small, images, rand=rand(), full=full))


def test_further_sizes_leave_the_file_alone():
    model = tiny(sizes=[(16, 24)])
    assert model.state_dict().keys() == tiny().state_dict().keys()
    assert model.encoder.grid == (4, 6)


def test_a_size_that_was_not_asked_for():
    for model in (tiny(), tiny(sizes=[(16, 24)])):
        with pytest.raises(ValueError, match=r"images must be \(B, 3, 32, 48\).*, not"):
            model(pictures(model, size=(24, 24)))


def test_learned_positions_have_one_size():
    model = tiny(sizes=[(16, 24)])
    model.encoder.vit.pos_embed.requires_grad_(True)
    model(pictures(model))
    with pytest.raises(ValueError, match="positions that are learned have one size"):
        model(pictures(model, size=(16, 24)))


@pytest.mark.parametrize("variant", [{}, CROSS], ids=["self", "cross"])
def test_a_size_is_compiled_once(variant):
    """Static shapes: as many graphs as a block of its kind has sizes, and none when one returns."""
    model, graphs = tiny(**variant, sizes=[(16, 24), (24, 32)]), []
    lower = torch._dynamo.lookup_backend("aot_eager")

    def backend(graph, inputs):
        graphs.append(graph)
        return lower(graph, inputs)

    torch.compiler.reset()
    counts = []
    for block in model.blocks():
        block.compile(backend=backend, fullgraph=True, dynamic=False)
    for size in ((16, 24), (16, 24), (24, 32), (32, 48), (32, 48), (16, 24)):
        train(model, pictures(model, size=size), rand=rand())
        counts.append(len(graphs))
    torch.compiler.reset()
    first = counts[0]
    assert counts == [first, first, 2 * first, 3 * first, 3 * first, 3 * first]


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
    "fusion": ({"fusion": True}, "need decoder='cross'"),
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
    with pytest.raises(UsageError, match=words) as found:
        tiny(**arguments)
    assert len(str(found.value).splitlines()) <= 4


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
