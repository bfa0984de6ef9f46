"""The official format keeps every tensor; what it cannot hold is told or refused."""

from __future__ import annotations

import pytest
import torch
import variants

import openmae
from openmae.errors import UsageError
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.weights import load_any
from openmae.weights.methodfile import load_method, save_method
from openmae.weights.writers import FORMATS, outputs

OFFICIAL = FORMATS["official"]
IMAGES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
TINY = {"embed_dim": 48, "depth": 2, "num_heads": 3}


def mae(**more) -> MAE:
    return variants.scramble(
        MAE(**{**variants.SIZES, "decoder_dim": 32, "decoder_depth": 1} | more), 0
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_names_are_those_of_the_official_code(suffix, tmp_path):
    made = mae()
    OFFICIAL.write(made, tmp_path / f"x{suffix}")
    if suffix == ".pth":
        found = torch.load(tmp_path / "x.pth", weights_only=True)
        assert list(found) == ["model"]
        found = found["model"]
    else:
        from safetensors.torch import load_file

        found = load_file(tmp_path / "x.safetensors")
    expected = variants.official(made)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in found)
    assert (tmp_path / f"x{suffix}").stat().st_mode & 0o044  # others may read it


def test_the_words_for_the_official_code_build_this_model():
    told = OFFICIAL.write.__globals__["_call"](
        mae(decoder_heads=4, target="pixels", mask_ratio=0.5)
    )
    words = dict(word.split("=") for word in told.split(", "))
    assert words == {
        "img_size": "32", "patch_size": "8", "in_chans": "3", "embed_dim": "192", "depth": "2",
        "num_heads": "3", "mlp_ratio": "4", "decoder_embed_dim": "32", "decoder_depth": "1",
        "decoder_num_heads": "4", "norm_pix_loss": "False",
    }  # fmt: skip


def test_what_is_lost_is_told(tmp_path):
    told = OFFICIAL.write(mae(), tmp_path / "plain.pth")
    assert len(told) == 1
    odd = mae(encoder_args=TINY, decoder_heads=4, mean=[0.1] * 3, std=[0.2] * 3, target="pixels")
    told = OFFICIAL.write(odd, tmp_path / "x.pth")
    assert "--heads 3 --decoder-heads 4" in told[1]
    assert "0.1 0.1 0.1; 0.2 0.2 0.2" in told[2]
    assert "predicts pixels" in told[3]
    assert len(told) == 4
    again = openmae.load(tmp_path / "x.pth", heads=3, decoder_heads=4)
    noise = torch.rand(2, 16)
    images = torch.randn(2, 3, 32, 32)
    first, second = (m(images, noise=noise, full=True)["pred"] for m in (odd, again))
    assert torch.equal(first, second)


REFUSED = {
    "wide": ({"image_size": (32, 48)}, "square"),
    "patch": ({"patch_size": (8, 16)}, "square"),
    "no token": ({"encoder_args": {**TINY, "class_token": False}}, "one class token"),
    "registers": ({"encoder_args": {**TINY, "reg_tokens": 2}}, "one class token"),
    "scale": ({"encoder_args": {**TINY, "init_values": 0.1}}, r"blocks\.0\.ls1\.gamma"),
    "qk norm": ({"encoder_args": {**TINY, "qk_norm": True}}, r"attn\.k_norm"),
    "no bias": ({"encoder_args": {**TINY, "qkv_bias": False}}, r"attn\.qkv\.bias"),
    "act": ({"encoder_args": {**TINY, "act_layer": "silu"}}, "exact GELU"),
}


@pytest.mark.parametrize("to", ["official", "hf"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_expressed_is_refused(name, to):
    more, reason = REFUSED[name]
    with pytest.raises(UsageError, match=rf"(?s){reason}.*--to openmae"):
        FORMATS[to].require(mae(**more))


@pytest.mark.parametrize("name", REFUSED)
def test_our_own_file_holds_all_of_them(name, tmp_path):
    made = mae(**REFUSED[name][0])
    save_method(tmp_path / "x.safetensors", made)
    images = torch.zeros(1, 3, *made.encoder.image_size, dtype=torch.uint8)
    found = outputs(load_any(str(tmp_path / "x.safetensors")).model, images)
    assert all(torch.equal(found[n], t) for n, t in outputs(made, images).items())


def test_a_file_of_ours_keeps_what_was_set_later(tmp_path):
    made = mae()
    made.target, made.mask, made.mask_ratio = "pixels", "block", 0.5
    for layer in made.modules():
        if isinstance(layer, torch.nn.LayerNorm):
            layer.eps = 0.1
    save_method(tmp_path / "x.safetensors", made)
    found = load_method(tmp_path / "x.safetensors")
    assert (found.target, found.mask, found.mask_ratio) == ("pixels", "block", 0.5)
    first, second = outputs(made, IMAGES), outputs(found.eval(), IMAGES)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_a_classifier_of_ours_keeps_names_and_statistics(tmp_path):
    words = {"classes": ["ant", "bee"], "mean": [0.1] * 3, "std": [0.3] * 3, "multi_label": True}
    made = variants.scramble(Classifier(**variants.SIZES, **words), 1)
    save_method(tmp_path / "x.safetensors", made)
    found = openmae.load(tmp_path / "x.safetensors")
    assert (found.classes, found.multi_label) == (["ant", "bee"], True)
    assert torch.equal(found.logits(IMAGES), made.logits(IMAGES))


def test_a_mask_of_ones_own_is_refused():
    with pytest.raises(UsageError, match="your own function"):
        FORMATS["openmae"].require(mae(mask=lambda grid, rand, *_: rand("own", (1, 16))))
