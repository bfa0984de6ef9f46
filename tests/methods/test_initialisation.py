"""The paper's initial statistics (section A.1) and sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from openmae.methods import MAE
from openmae.models.positions import sincos_2d


@pytest.fixture(scope="module")
def model() -> MAE:
    torch.manual_seed(0)
    args = {"embed_dim": 192, "depth": 2, "num_heads": 3, "reg_tokens": 8}
    return MAE(
        "vit_tiny_patch16_224", (32, 48), 8, encoder_args=args, decoder_dim=128, decoder_depth=2
    )


@pytest.fixture(scope="module")
def paper() -> MAE:
    with torch.device("meta"):
        return MAE()


def is_xavier(matrix: Tensor) -> None:
    """A matrix (out, in) of U(-b, b), b = sqrt(6 / (in + out))."""
    bound = (6 / sum(matrix.shape)) ** 0.5
    count = matrix.numel()
    assert matrix.abs().max() <= bound
    assert matrix.max() > bound * (1 - 20 / count)
    assert matrix.min() < -bound * (1 - 20 / count)
    assert matrix.std().item() == pytest.approx(bound / 3**0.5, rel=5 / count**0.5)
    assert abs(matrix.mean().item()) < 5 * bound / (3 * count) ** 0.5


def test_every_linear_is_xavier_with_zero_bias(model):
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert len(layers) == 4 * 4 + 2  # qkv, proj, fc1, fc2 of four blocks; decoder embed and pred
    for layer in layers.values():
        is_xavier(layer.weight)
        assert not layer.bias.any()


@pytest.mark.parametrize("part", ["encoder.vit", "decoder"])
def test_qkv_is_initialised_as_one_matrix(model, part):
    """The bound of the fused (3D, D) matrix, sqrt(6 / 4D); of three own matrices, sqrt(6 / 2D)."""
    for block in model.get_submodule(part).blocks:
        width = block.attn.qkv.in_features
        bound = (6 / (4 * width)) ** 0.5
        for third in block.attn.qkv.weight.chunk(3):
            assert third.shape == (width, width)
            assert 0.99 * bound < third.abs().max() <= bound


def test_patch_embedding_is_initialised_as_a_linear_layer(model):
    conv = model.encoder.vit.patch_embed.proj
    assert conv.weight.shape == (192, 3, 8, 8)
    is_xavier(conv.weight.flatten(1))  # viewed as (D, C*p*q)
    assert not conv.bias.any()


def test_layer_norms(model):
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 4 * 2 + 2
    for norm in norms:
        assert norm.eps == 1e-6
        assert (norm.weight == 1).all()
        assert not norm.bias.any()


@pytest.mark.parametrize(
    "name", ["encoder.vit.cls_token", "encoder.vit.reg_token", "decoder.mask_token"]
)
def test_tokens(model, name):
    token = model.get_parameter(name)
    count = token.numel()
    assert token.requires_grad
    assert token.std().item() == pytest.approx(0.02, rel=4 / (2 * count) ** 0.5)
    assert abs(token.mean().item()) < 4 * 0.02 / count**0.5


@pytest.mark.parametrize(
    ("name", "dim"), [("encoder.vit.pos_embed", 192), ("decoder.pos_embed", 128)]
)
def test_positions_are_frozen_sincos(model, name, dim):
    table = model.get_parameter(name)
    assert not table.requires_grad
    assert torch.equal(table[0], sincos_2d(dim, (4, 6), num_prefix=9))


def test_everything_else_is_trained(model):
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"encoder.vit.pos_embed", "decoder.pos_embed"}


def test_no_parameter_is_left_to_timm():
    """Every parameter is set by us: fill the model with one number and initialise it again."""
    args = {"embed_dim": 32, "depth": 1, "num_heads": 2, "reg_tokens": 4}
    model = MAE("vit_tiny_patch16_224", 32, 8, encoder_args=args, decoder_dim=32, decoder_depth=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "decoder.pos_embed":  # set by its constructor
                parameter.fill_(float("nan"))
    model.encoder.initialise()
    model.decoder.initialise()
    assert [n for n, p in model.named_parameters() if not p.isfinite().all()] == []


def test_seed_decides():
    def build(seed: int) -> Tensor:
        torch.manual_seed(seed)
        args = {"embed_dim": 32, "depth": 1, "num_heads": 2}
        tiny = MAE(
            "vit_tiny_patch16_224", 32, 8, encoder_args=args, decoder_dim=32, decoder_depth=1
        )
        return torch.cat([p.detach().flatten() for p in tiny.parameters()])

    assert torch.equal(build(3), build(3))
    assert not torch.equal(build(3), build(4))


def test_fresh_loss_is_near_one():
    """Normalised pixels have variance 1 and a fresh model knows nothing: the loss is above it."""
    torch.manual_seed(0)
    args = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    fresh = MAE("vit_tiny_patch16_224", 32, 4, encoder_args=args, decoder_dim=64, decoder_depth=2)
    loss = fresh(torch.randn(8, 3, 32, 32))["loss"].item()
    assert 0.97 < loss < 3


# The paper's sizes, without memory.


def test_default_encoder_is_vit_b(paper):
    vit = paper.encoder.vit
    assert (vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads) == (768, 12, 12)
    assert (paper.encoder.image_size, paper.encoder.patch) == ((224, 224), (16, 16))
    assert sum(p.numel() for p in paper.encoder.parameters()) == 85_798_656


def test_default_decoder_is_8_x_512_x_16(paper):
    decoder = paper.decoder
    assert len(decoder.blocks) == 8
    for block in decoder.blocks:
        assert block.attn.qkv.weight.shape == (1536, 512)
        assert block.attn.num_heads == 16
        assert block.mlp.fc1.weight.shape == (2048, 512)
    assert decoder.embed.weight.shape == (512, 768)
    assert decoder.pred.weight.shape == (768, 512)
    assert decoder.pos_embed.shape == (1, 197, 512)
    assert sum(p.numel() for p in decoder.parameters()) == 26_109_184
    assert sum(p.numel() for p in paper.parameters()) == 111_907_840


def test_default_epsilon_is_1e_6_everywhere(paper):
    assert {m.eps for m in paper.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


def test_default_mask_and_target(paper):
    assert (paper.mask, paper.mask_ratio, paper.target) == ("random", 0.75, "norm_pixels")
    assert paper.encoder.vit.num_prefix_tokens == 1


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vit_large_patch16_224", 303_301_632), ("vit_huge_patch14_224", 630_764_800)],
)
def test_large_and_huge(name, parameters):
    with torch.device("meta"):
        encoder = MAE(name).encoder
    assert sum(p.numel() for p in encoder.parameters()) == parameters
