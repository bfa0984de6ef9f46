"""Against transformers' ViTMAE, an independent implementation that equals the official code.

Its own initialisation is degenerate since 4.51 (positions, class and mask token are zero), so every
one of its weights is ours: it is filled with NaN first, then loaded strictly. Positions are
trainable on both sides here, so that their gradients are compared too.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from openmae.methods import MAE

TOLERANCE = 1e-10  # relative to each tensor's norm
KEY_BIAS = 1e-12  # absolute: the true gradient of a key's bias is zero

NAMES = [
    ("encoder.vit.cls_token", "vit.embeddings.cls_token"),
    ("encoder.vit.pos_embed", "vit.embeddings.position_embeddings"),
    ("encoder.vit.patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
    ("encoder.vit.blocks", "vit.layers"),
    ("encoder.vit.norm", "vit.layernorm"),
    ("decoder.pos_embed", "decoder.decoder_pos_embed"),
    ("decoder.embed", "decoder.decoder_embed"),
    ("decoder.blocks", "decoder.decoder_layers"),
    ("decoder.norm", "decoder.decoder_norm"),
    ("decoder.pred", "decoder.decoder_pred"),
]
INNER = [
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.o_proj."),
]


def as_theirs(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients under transformers' names, qkv split in three."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        for old, new in NAMES:
            if name == old or name.startswith(old + "."):
                name = new + name.removeprefix(old)
                break
        for old, new in INNER:
            name = name.replace(old, new)
        if ".attn.qkv." in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[name.replace(".attn.qkv.", f".attention.{letter}_proj.")] = part
        else:
            renamed[name] = tensor
    return renamed


def pair(norm_pixels: bool, chans: int, ratio: float) -> tuple[MAE, ViTMAEForPreTraining]:
    """Both models in float64 with the same weights, all away from 0 and 1."""
    torch.manual_seed(0)
    ours = MAE(
        "vit_tiny_patch16_224",
        image_size=32,
        patch_size=8,
        in_chans=chans,
        encoder_args={"embed_dim": 48, "depth": 2, "num_heads": 3},
        decoder_dim=32,
        decoder_depth=3,
        decoder_heads=4,
        target="norm_pixels" if norm_pixels else "pixels",
        mask_ratio=ratio,
    ).double()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if not name.endswith("pos_embed"):  # the sin-cos tables are compared as they are
                parameter.add_(0.2 * torch.randn_like(parameter))
    config = ViTMAEConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        image_size=32,
        patch_size=8,
        num_channels=chans,
        layer_norm_eps=1e-6,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=3,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=128,
        mask_ratio=ratio,
        norm_pix_loss=norm_pixels,
    )
    theirs = ViTMAEForPreTraining(config).double()
    with torch.no_grad():
        for tensor in theirs.state_dict().values():
            tensor.fill_(float("nan"))
    weights = as_theirs(ours.state_dict())
    weights = {n: w for n, w in weights.items() if n not in ("encoder.mean", "encoder.std")}
    assert weights.keys() == theirs.state_dict().keys()
    theirs.load_state_dict(weights, strict=True)
    assert [n for n, t in theirs.state_dict().items() if not t.isfinite().all()] == []
    assert theirs.vit.embeddings.position_embeddings.any()
    assert theirs.decoder.decoder_pos_embed.any()
    for parameter in (*ours.parameters(), *theirs.parameters()):
        parameter.requires_grad_(True)
    return ours, theirs


def inputs(chans: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, chans, 32, 32, dtype=torch.float64, generator=generator)
    return images, torch.rand(3, 16, dtype=torch.float64, generator=generator)


def relative(ours: Tensor, theirs: Tensor) -> float:
    assert theirs.norm() > 1e-9, "a tensor of zeros shows nothing"
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("full", [False, True], ids=["pruned", "full"])
@pytest.mark.parametrize("norm_pixels", [True, False], ids=["norm_pixels", "pixels"])
@pytest.mark.parametrize(("chans", "ratio"), [(3, 0.75), (1, 0.5), (5, 0.9)])
def test_loss_and_every_gradient(full, norm_pixels, chans, ratio):
    ours, theirs = pair(norm_pixels, chans, ratio)
    images, noise = inputs(chans)
    loss = ours(images, noise=noise, full=full)["loss"]
    want = theirs(images, noise=noise).loss
    assert abs(loss - want) / want < TOLERANCE
    loss.backward()
    want.backward()
    gradients = as_theirs({n: p.grad for n, p in ours.named_parameters()})
    wanted = {n: p.grad for n, p in theirs.named_parameters()}
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        if name.endswith("k_proj.bias"):
            assert max(gradients[name].abs().max(), gradient.abs().max()) < KEY_BIAS, name
        else:
            assert relative(gradients[name], gradient) < TOLERANCE, name


@pytest.mark.parametrize("norm_pixels", [True, False], ids=["norm_pixels", "pixels"])
def test_predictions_and_mask(norm_pixels):
    ours, theirs = pair(norm_pixels, 3, 0.75)
    images, noise = inputs(3)
    out, want = ours(images, noise=noise, full=True), theirs(images, noise=noise)
    assert torch.equal(out["mask"], want.mask)
    assert out["mask"].sum() == 3 * 12
    assert out["pred"].shape == want.logits.shape == (3, 16, 192)
    assert relative(out["pred"], want.logits) < TOLERANCE


def test_all_tokens_of_the_encoder():
    ours, theirs = pair(True, 3, 0.75)
    images, _ = inputs(3)
    theirs.vit.config.mask_ratio = 0.0
    ascending = torch.arange(16, dtype=torch.float64).expand(
        3, -1
    )  # keeps the order of the patches
    want = theirs.vit(images, noise=ascending).last_hidden_state
    assert want.shape == (3, 17, 48)
    assert relative(ours.encoder(images), want) < TOLERANCE


def test_a_wrong_weight_is_seen():
    ours, theirs = pair(True, 3, 0.75)
    images, noise = inputs(3)
    with torch.no_grad():
        theirs.decoder.decoder_pos_embed[:, 1:] = theirs.decoder.decoder_pos_embed[:, 1:].flip(1)
    difference = abs(ours(images, noise=noise)["loss"] - theirs(images, noise=noise).loss)
    assert difference > 1e-4
