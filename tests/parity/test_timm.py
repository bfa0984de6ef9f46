"""The encoder against timm's own `forward_features` with the same weights."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods import MAE
from openmae.models.encoder import list_models
from openmae.models.patches import patchify, take

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}
POOLED = {"class_token": False, "global_pool": "avg", "fc_norm": False}

# encoder_args, what timm needs besides, image size, patch size, channels
CASES = {
    "class token": ({}, {}, (32, 48), 8, 3),
    "registers": ({"reg_tokens": 4}, {}, (32, 48), 8, 3),
    "no class token": ({"class_token": False}, POOLED, (32, 48), 8, 3),
    "registers alone": ({"class_token": False, "reg_tokens": 4}, POOLED, (32, 32), 8, 3),
    "no rows for prefix": ({"reg_tokens": 4, "no_embed_class": True}, {}, (32, 48), 8, 3),
    "pre-norm": ({"pre_norm": True}, {}, (32, 48), 8, 3),
    "tall, rectangular patch": ({}, {}, (48, 32), (4, 8), 3),
    "one channel": ({}, {}, (32, 48), 8, 1),
    "five channels": ({}, {}, (32, 48), 4, 5),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def pair(case: tuple) -> tuple[MAE, nn.Module, Tensor]:
    """Our model with random weights, timm's with the same, and images."""
    args, more, image_size, patch_size, chans = case
    torch.manual_seed(0)
    model = MAE(
        "vit_tiny_patch16_224",
        image_size,
        patch_size,
        chans,
        encoder_args=SMALL | args,
        decoder_dim=32,
        decoder_depth=1,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=image_size,
        patch_size=patch_size,
        in_chans=chans,
        num_classes=0,
        **(SMALL | args | more),
    )
    theirs.load_state_dict(model.encoder.vit.state_dict(), strict=True)
    images = torch.randint(0, 256, (3, chans, *image_size), dtype=torch.uint8)
    return model, theirs, images


def all_kept(model: MAE, images: Tensor) -> Tensor:
    """Tokens of the training path's linear patch embedding, with every patch kept."""
    encoder = model.encoder
    ids = torch.arange(encoder.grid[0] * encoder.grid[1]).expand(len(images), -1)
    return encoder.encode_kept(patchify(encoder.normalize(images), encoder.patch), ids)


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_encoder_is_forward_features_bit_for_bit(case, dtype):
    model, theirs, images = pair(case)
    model, theirs = model.to(dtype), theirs.to(dtype)
    encoder = model.encoder
    floats = (images.to(dtype) / 255 - encoder.mean) / encoder.std
    tokens = theirs.forward_features(floats)
    length = encoder.grid[0] * encoder.grid[1] + encoder.num_prefix_tokens
    assert tokens.shape == (3, length, 48)
    assert torch.equal(encoder(floats), tokens)
    assert torch.equal(encoder(images), tokens)  # 8-bit images are normalised on the way


@cases
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_linear_patch_embedding_with_all_kept(case, dtype, bound):
    model, theirs, images = pair(case)
    model, theirs = model.to(dtype), theirs.to(dtype)
    want = theirs.forward_features(model.encoder.normalize(images))
    assert ((all_kept(model, images) - want).norm() / want.norm()).item() < bound


@cases
def test_kept_patches_may_come_in_any_order(case):
    model = pair(case)[0].double()
    images = model.encoder.normalize(pair(case)[2])
    prefix = model.encoder.num_prefix_tokens
    patches, tokens = patchify(images, model.encoder.patch), all_kept(model, images)
    ids = torch.rand(patches.shape[:2], generator=torch.Generator().manual_seed(3)).argsort(1)
    out = model.encoder.encode_kept(take(patches, ids), ids)
    torch.testing.assert_close(out[:, :prefix], tokens[:, :prefix], rtol=0, atol=1e-12)
    torch.testing.assert_close(out[:, prefix:], take(tokens[:, prefix:], ids), rtol=0, atol=1e-12)
    assert not torch.allclose(out, tokens)


@cases
def test_recorded_call_makes_the_same_model(case):
    model, theirs, images = pair(case)
    again = timm.create_model(**model.encoder.create)
    again.load_state_dict(model.encoder.vit.state_dict(), strict=True)
    floats = model.encoder.normalize(images)
    assert torch.equal(again.forward_features(floats), theirs.forward_features(floats))


def difference(name: str) -> float:
    """Of the training path with all patches kept from timm, for a named model made small."""
    size = 2 * int(name.split("_patch")[1].split("_")[0])
    small = {"img_size": size, "embed_dim": 48, "depth": 1, "num_heads": 3}
    encoder = {k: v for k, v in small.items() if k != "img_size"}
    model = MAE(name, size, encoder_args=encoder, decoder_dim=32, decoder_depth=1).double().eval()
    own = {
        k: model.encoder.create[k]
        for k in ("global_pool", "fc_norm", "class_token")
        if k in model.encoder.create
    }
    theirs = timm.create_model(name, num_classes=0, **small, **own).double().eval()
    theirs.load_state_dict(model.encoder.vit.state_dict(), strict=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=generator)
    want = theirs.forward_features(images)
    assert torch.equal(model.encoder(images), want)
    return ((all_kept(model, images) - want).norm() / want.norm()).item()


@pytest.mark.parametrize("pooled", [False, True], ids=["with class token", "gap and map"])
def test_every_listed_model(pooled):
    """`openmae models` lists only what can be built, and its small twin is timm's model."""
    names = [n for n in list_models() if ("_gap_" in n or "_map_" in n) == pooled]
    wrong = {}
    for name in names:
        try:
            if not (gap := difference(name)) < 1e-12:
                wrong[name] = f"differs by {gap}"
        except (UsageError, ValueError, RuntimeError) as error:
            wrong[name] = str(error).splitlines()[0]
    assert names
    assert wrong == {}
