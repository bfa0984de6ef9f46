"""Every checkpoint of the family is recognised, and becomes the same model."""

from __future__ import annotations

import argparse
import json

import pytest
import torch
import variants
from safetensors.torch import save_file

import openmae
from openmae.errors import StorageError, UsageError
from openmae.methods.classify import Classifier
from openmae.models.encoder import Encoder
from openmae.weights import load_any
from openmae.weights.foreign import find

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
NOISE = torch.rand(2, 16, generator=torch.Generator().manual_seed(8))


def wrapped(made) -> dict:
    args = argparse.Namespace(norm_pix_loss=False, model="mae_vit_base", lr=1e-3)
    state = {"model": variants.official(made), "epoch": 3, "scaler": {"scale": 1.0}}
    return state | {"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "args": args}


FULL = {
    "official": lambda m: {"model": variants.official(m)},
    "bare": variants.official,
    "user": wrapped,
    "ddp": lambda m: {"model": {f"module.{n}": t for n, t in variants.official(m).items()}},
    "compiled": lambda m: {f"_orig_mod.{n}": t for n, t in variants.official(m).items()},
    "both": lambda m: {f"module._orig_mod.{n}": t for n, t in variants.official(m).items()},
    "lightning": lambda m: {
        "state_dict": {f"model.{n}": t for n, t in variants.official(m).items()}
    },
    "hf classic": variants.hugging_face,
    "hf new": lambda m: variants.hugging_face(m, new=True),
    "hf mangled": lambda m: variants.hugging_face(m, mangled=True),
    "mmpretrain": lambda m: {"state_dict": variants.mmpretrain(m), "meta": {"epoch": 3}},
    "lightly": lambda m: {"state_dict": variants.lightly(m)},
    "ours": lambda m: {n: t.clone() for n, t in m.state_dict().items()},
}


FLAT = ("bare", "compiled", "both", "hf classic", "hf new", "hf mangled", "ours")
CASES = [(n, ".pth") for n in FULL] + [(n, ".safetensors") for n in FLAT]


@pytest.mark.parametrize(("name", "suffix"), CASES)
def test_full_files_give_the_same_loss(name, suffix, tmp_path):
    made = variants.model(target="pixels" if name == "user" else "norm_pixels")
    state = FULL[name](made)
    path = tmp_path / f"file{suffix}"
    if suffix == ".safetensors":
        save_file({n: t.contiguous() for n, t in state.items()}, path)
    else:
        torch.save(state, path)
    loaded = openmae.load(path)
    assert isinstance(loaded, openmae.MAE)
    assert loaded.target == made.target
    expected, found = (m(IMAGES, noise=NOISE, full=True) for m in (made, loaded))
    assert torch.equal(found["pred"], expected["pred"])
    assert torch.equal(found["loss"], expected["loss"])


def test_an_old_format_of_torch(tmp_path):
    torch.save(
        variants.official(variants.model()),
        tmp_path / "x.pth",
        _use_new_zipfile_serialization=False,
    )
    assert isinstance(openmae.load(tmp_path / "x.pth"), openmae.MAE)


def test_kinds_and_what_is_known_of_them(tmp_path):
    made = variants.model()
    torch.save(wrapped(made), tmp_path / "checkpoint-3.pth")
    found = find(tmp_path / "checkpoint-3.pth")
    assert found.kind == (
        "masked autoencoder, encoder and decoder, official or timm names (a training checkpoint)"
    )
    assert (found.target, found.target_reason) == ("pixels", "args.norm_pix_loss")
    assert found.extra["epoch"] == 3
    arch = found.arch
    assert (arch.embed_dim, arch.depth, arch.num_heads, arch.decoder_heads) == (192, 2, 3, 16)
    assert (arch.patch, arch.grid, arch.image_size) == ((8, 8), (4, 4), (32, 32))
    torch.save({"model": variants.official(made)}, tmp_path / "mae_visualize_vit_base.pth")
    assert find(tmp_path / "mae_visualize_vit_base.pth").target == "pixels"
    torch.save({"model": variants.official(made)}, tmp_path / "x.pth")
    assert "assumed" in find(tmp_path / "x.pth").target_reason


def test_an_encoder_only_file_is_timms_own(tmp_path):
    import timm

    made = variants.model()
    state = {
        n: t for n, t in variants.official(made).items() if not n.startswith(("decoder", "mask"))
    }
    torch.save({"model": state}, tmp_path / "mae_pretrain.pth")
    loaded = openmae.load(tmp_path / "mae_pretrain.pth")
    assert isinstance(loaded, Encoder)
    sizes = {"embed_dim": 192, "depth": 2, "num_heads": 3, "img_size": 32, "patch_size": 8}
    vit = timm.create_model("vit_base_patch16_224", num_classes=0, global_pool="token", **sizes)
    vit.load_state_dict(state, strict=True)
    assert torch.equal(loaded(IMAGES), vit.eval().forward_features(IMAGES))
    assert "encoder only" in load_any(str(tmp_path / "mae_pretrain.pth")).what


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_fine_tuned_file_gives_timms_logits(pool, tmp_path):
    import timm

    made = variants.classifier(pool)
    state = variants.official(made)
    assert ("fc_norm.weight" in state) == (pool == "mean")
    torch.save({"model": state}, tmp_path / "mae_finetuned.pth")
    loaded = openmae.load(tmp_path / "mae_finetuned.pth")
    assert isinstance(loaded, Classifier)
    sizes = {"embed_dim": 192, "depth": 2, "num_heads": 3, "img_size": 32, "patch_size": 8}
    pooling = "avg" if pool == "mean" else "token"
    vit = timm.create_model("vit_base_patch16_224", num_classes=3, global_pool=pooling, **sizes)
    vit.load_state_dict(state, strict=True)
    assert torch.equal(loaded.logits(IMAGES), vit.eval()(IMAGES))


def test_a_fine_tuned_file_of_mmpretrain(tmp_path):
    """Its norm of the mean of the patch tokens is `ln2`, its head `head.fc`."""
    made = variants.classifier("mean")
    named = variants.mmpretrain(made)
    own = {"fc_norm.": "ln2.", "head.": ""}
    for start, to in own.items():
        for kind in ("weight", "bias"):
            tensor = named.pop(f"backbone.{start}{kind}")
            named[f"backbone.{to}{kind}" if to else f"head.fc.{kind}"] = tensor
    torch.save({"state_dict": named}, tmp_path / "x.pth")
    loaded = openmae.load(tmp_path / "x.pth")
    assert (type(loaded), loaded.pool) == (Classifier, "mean")
    assert torch.equal(loaded.logits(IMAGES), made.logits(IMAGES))


def test_a_linear_probe_is_folded(tmp_path):
    made = variants.classifier("cls")
    state = variants.official(made)
    head = torch.nn.Sequential(
        torch.nn.BatchNorm1d(192, affine=False, eps=1e-6), torch.nn.Linear(192, 3)
    )
    head[0].running_mean.normal_()
    head[0].running_var.uniform_(0.5, 2)
    state = {n: t for n, t in state.items() if not n.startswith("head.")}
    state |= {f"head.{n}": t for n, t in head.state_dict().items()}
    torch.save({"model": state}, tmp_path / "probe.pth")
    loaded = openmae.load(tmp_path / "probe.pth")
    expected = head.eval()(made.encoder(IMAGES)[:, 0])
    torch.testing.assert_close(loaded.logits(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert find(tmp_path / "probe.pth").kind.startswith("linear probe")


@pytest.mark.parametrize(
    ("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16)]
)
def test_heads_by_width(width, heads, tmp_path):
    args = {"embed_dim": width, "depth": 2, "num_heads": heads}
    made = openmae.MAE(**{**variants.SIZES, "encoder_args": args}, decoder_dim=64, decoder_depth=1)
    torch.save({"model": variants.official(made)}, tmp_path / "wide.pth")
    loaded = openmae.load(tmp_path / "wide.pth")
    assert loaded.encoder.vit.blocks[0].attn.num_heads == heads
    assert loaded.decoder.blocks[0].attn.num_heads == 16


def test_heads_can_be_told(tmp_path):
    torch.save(variants.official(variants.model()), tmp_path / "x.pth")
    loaded = openmae.load(tmp_path / "x.pth", heads=6, decoder_heads=8)
    assert loaded.encoder.vit.blocks[0].attn.num_heads == 6
    assert loaded.decoder.blocks[0].attn.num_heads == 8


def test_hugging_faces_own_model_and_its_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=192, num_hidden_layers=2, num_attention_heads=3, intermediate_size=768,
        image_size=32, patch_size=8, decoder_hidden_size=64, decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4, decoder_intermediate_size=256, norm_pix_loss=True,
    )  # fmt: skip
    theirs = variants.scramble(transformers.ViTMAEForPreTraining(config), 5)
    theirs.save_pretrained(tmp_path / "hf")
    ours = openmae.load(tmp_path / "hf")
    assert ours.target == "norm_pixels"
    assert ours.decoder.blocks[0].attn.num_heads == 4
    expected = theirs(IMAGES, noise=NOISE)
    found = ours(IMAGES, noise=NOISE, full=True)
    torch.testing.assert_close(found["loss"], expected.loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["pred"], expected.logits, atol=1e-4, rtol=1e-4)


def test_hugging_faces_classifier_with_names(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=192, num_hidden_layers=2, num_attention_heads=3, intermediate_size=768,
        image_size=32, patch_size=8, id2label={0: "ant", 1: "bee"}, label2id={"ant": 0, "bee": 1},
    )  # fmt: skip
    theirs = variants.scramble(transformers.ViTForImageClassification(config), 6)
    theirs.save_pretrained(tmp_path / "hf")
    ours = openmae.load(tmp_path / "hf")
    assert ours.classes == ["ant", "bee"]
    torch.testing.assert_close(ours.logits(IMAGES), theirs(IMAGES).logits, atol=1e-5, rtol=1e-5)


REFUSED = {
    "hiera": ({"pos_embed_spatial": torch.zeros(1)}, "a Hiera model"),
    "convnext": ({"downsample_layers.0.0.weight": torch.zeros(1)}, "ConvNeXt-V2"),
    "monai": ({"patch_embedding.patch_embeddings.weight": torch.zeros(1)}, "MONAI"),
    "beit": ({"blocks.0.gamma_1": torch.zeros(1)}, "a BEiT model"),
    "vitdet": ({"backbone.net.blocks.0.attn.rel_pos_h": torch.zeros(1)}, "a ViTDet model"),
    "video": ({"patch_embed.proj.weight": torch.zeros(1, 1, 1, 1, 1)}, "videos or volumes"),
    "resnet": ({"layer1.0.conv1.weight": torch.zeros(1)}, "no vision transformer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_by_name(name, tmp_path):
    tensors, text = REFUSED[name]
    torch.save({**tensors, "a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(StorageError, match=text):
        openmae.load(tmp_path / "x.pth")


def test_a_missing_tensor_is_named(tmp_path):
    state = variants.official(variants.model())
    del state["blocks.1.attn.proj.bias"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(StorageError, match=r"1 tensors are missing or too many, first .*proj.bias"):
        openmae.load(tmp_path / "x.pth")


def test_a_grid_that_is_not_square_needs_a_size(tmp_path):
    made = openmae.MAE(
        **{**variants.SIZES, "image_size": (32, 48)}, decoder_dim=64, decoder_depth=1
    )
    torch.save(variants.official(made), tmp_path / "x.pth")
    with pytest.raises(StorageError, match="24 positions, which make no square"):
        openmae.load(tmp_path / "x.pth")


def test_heads_that_do_not_fit(tmp_path):
    torch.save(variants.official(variants.model()), tmp_path / "x.pth")
    with pytest.raises(UsageError, match="give --heads"):
        openmae.load(tmp_path / "x.pth", heads=7)


def test_a_folder_without_a_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(StorageError, match=r"no checkpoint and no model\.safetensors"):
        openmae.load(tmp_path)
