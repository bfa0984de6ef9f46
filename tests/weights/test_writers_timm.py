"""timm loads what is written for it, as its own and strictly."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import variants
from safetensors import safe_open
from safetensors.torch import load_file

from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.weights import save_encoder
from openmae.weights.writers import FORMATS

TINY = {"embed_dim": 48, "depth": 2, "num_heads": 3}
SIZES = {**variants.SIZES, "encoder_args": TINY}


def encoder(**more):
    return variants.scramble(
        MAE(**{**SIZES, "decoder_dim": 32, "decoder_depth": 1} | more), 0
    ).encoder


def classifier(pool: str):
    stats = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    return variants.scramble(Classifier(**SIZES, classes=["ant", "bee"], pool=pool, **stats), 1)


ENCODERS = {
    "plain": {},
    "wide": {"image_size": (32, 48)},
    "patch": {"patch_size": (8, 16)},
    "bands": {"in_chans": 5},
    "no token": {"encoder_args": {**TINY, "class_token": False}},
    "registers": {"encoder_args": {**TINY, "reg_tokens": 2}},
    "scale": {"encoder_args": {**TINY, "init_values": 0.1, "qk_norm": True}},
}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_folder_of_an_encoder(name, tmp_path):
    made = encoder(**ENCODERS[name])
    FORMATS["timm"].write(made, tmp_path / "x")
    vit = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True).eval()
    assert vit.num_classes == 0
    vit.load_state_dict(load_file(tmp_path / "x/model.safetensors"), strict=True)
    images = torch.randn(2, made.in_chans, *made.image_size)
    with torch.inference_mode():
        assert torch.equal(vit.forward_features(images), made(images))
    settings = timm.data.resolve_model_data_config(vit)
    assert settings["input_size"] == (made.in_chans, *made.image_size)
    assert settings["mean"] == pytest.approx(made.mean.flatten().tolist())


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_folder_of_a_classifier_also_by_its_checkpoint(pool, tmp_path):
    made = classifier(pool)
    FORMATS["timm"].write(made, tmp_path / "x")
    config = json.loads((tmp_path / "x/config.json").read_text())
    by_folder = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True)
    by_file = timm.create_model(
        config["architecture"],
        num_classes=config["num_classes"],
        checkpoint_path=str(tmp_path / "x/model.safetensors"),
        **config["model_args"],
    )
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        for vit in (by_folder, by_file):
            assert torch.equal(vit.eval()(images), made.logits(images))
    assert by_folder.pretrained_cfg["label_names"] == ["ant", "bee"]
    assert by_folder.pretrained_cfg["mean"] == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(("size", "share"), [(32, 1.0), (128, 0.875), (256, 1.0)])
def test_the_crop_of_a_classifier_is_that_of_predict(size, share, tmp_path):
    from openmae.config.finetune import crop_share

    made = Classifier(**{**SIZES, "image_size": size, "patch_size": 16}, classes=["a", "b"])
    FORMATS["timm"].write(made, tmp_path / "x")
    config = json.loads((tmp_path / "x/config.json").read_text())
    assert config["pretrained_cfg"]["crop_pct"] == crop_share(None, (size, size)) == share


@pytest.mark.parametrize("pool", ["none", "mean", "cls"])
def test_the_encoder_file_loads_strictly_by_its_own_call(pool, tmp_path):
    made = encoder() if pool == "none" else classifier(pool).encoder
    save_encoder(tmp_path / "encoder.safetensors", made, {})
    with safe_open(tmp_path / "encoder.safetensors", framework="pt") as file:
        call = json.loads(file.metadata()["timm"])
    vit = timm.create_model(**call).eval()
    vit.load_state_dict(load_file(tmp_path / "encoder.safetensors"), strict=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(vit.forward_features(images), made(images))
        assert torch.equal(vit(images), made.vit(images))
