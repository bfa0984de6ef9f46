"""transformers loads what is written for it: every weight, and the same outputs."""

from __future__ import annotations

import json
import re

import pytest
import torch
import variants

import openmae
from openmae.cli import main
from openmae.errors import UsageError
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.weights.methodfile import save_method
from openmae.weights.writers import FORMATS

transformers = pytest.importorskip("transformers")

HF = FORMATS["hf"]
TINY = {**variants.SIZES, "encoder_args": {"embed_dim": 48, "depth": 2, "num_heads": 3}}
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def mae(**more) -> MAE:
    sizes = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4}
    return variants.scramble(MAE(**{**TINY, **sizes} | more), 0)


def loaded(kind, folder, **more):
    """The model; every one of its weights came from the file, and all of the file was used."""
    theirs, told = kind.from_pretrained(folder, output_loading_info=True, **more)
    assert {n: list(v) for n, v in told.items() if v} == {}
    return theirs.eval()


@pytest.mark.parametrize("target", ["norm_pixels", "pixels"])
@pytest.mark.parametrize(("ratio", "chans"), [(0.75, 3), (0.5, 1), (0.9, 5)])
def test_a_masked_autoencoder(target, ratio, chans, tmp_path):
    made = mae(target=target, mask_ratio=ratio, in_chans=chans)
    HF.write(made, tmp_path / "x")
    theirs = loaded(transformers.ViTMAEForPreTraining, tmp_path / "x")
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(3, chans, 32, 32, generator=generator)
    noise = torch.rand(3, 16, generator=generator)
    with torch.inference_mode():
        want, found = made(images, noise=noise, full=True), theirs(images, noise=noise)
    assert torch.equal(found.mask, want["mask"])
    torch.testing.assert_close(found.loss, want["loss"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.logits, want["pred"], atol=1e-5, rtol=1e-5)


def test_an_encoder(tmp_path):
    encoder = mae().encoder
    HF.write(encoder, tmp_path / "x")
    theirs = loaded(transformers.ViTModel, tmp_path / "x", add_pooling_layer=False)
    with torch.inference_mode():
        found = theirs(IMAGES).last_hidden_state
        torch.testing.assert_close(found, encoder(IMAGES), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("several", [False, True])
def test_a_classifier(several, tmp_path):
    words = {"classes": ["ant", "bee", "cat"], "pool": "cls", "multi_label": several}
    made = variants.scramble(Classifier(**TINY, **words), 1)
    HF.write(made, tmp_path / "x")
    theirs = loaded(transformers.ViTForImageClassification, tmp_path / "x")
    labels = (
        torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 1, 0]]) if several else torch.tensor([0, 2, 1])
    )
    with torch.inference_mode():
        found = theirs(IMAGES, labels=labels)
        torch.testing.assert_close(found.logits, made.logits(IMAGES), atol=1e-5, rtol=1e-5)
        want = made({"image": IMAGES, "label": labels})["loss"]
        torch.testing.assert_close(found.loss, want, atol=1e-5, rtol=1e-5)
    assert theirs.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    assert theirs.config.label2id == {"ant": 0, "bee": 1, "cat": 2}


def test_the_mean_of_the_patches_is_refused_with_the_way_out():
    with pytest.raises(UsageError, match=r"mean of the patches.* --to timm"):
        HF.require(Classifier(**TINY, classes=["a", "b"], pool="mean"))


def test_keys_are_the_classic_ones(tmp_path):
    from safetensors import safe_open

    HF.write(mae(), tmp_path / "x")
    with safe_open(tmp_path / "x/model.safetensors", framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert names == set(variants.hugging_face(mae()))
    assert metadata == {"format": "pt"}
    assert (tmp_path / "x/model.safetensors").stat().st_mode & 0o044


def test_its_processor_normalises_as_we_do(tmp_path):
    made = mae(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    HF.write(made, tmp_path / "x")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "x")
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    found = processor(images=pixels.numpy(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, made.encoder.normalize(pixels[None]), atol=1e-5, rtol=1e-5)


def test_what_it_does_otherwise_is_told(tmp_path):
    told = HF.write(mae(mask="block", in_chans=2), tmp_path / "x")
    assert re.search("masks at random.*mask block", told[1])
    assert "2 channels" in told[2]


def hugging_face_file(folder, eps: float) -> None:
    config = transformers.ViTMAEConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192,
        image_size=32, patch_size=8, decoder_hidden_size=32, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=4, decoder_intermediate_size=128, layer_norm_eps=eps,
    )  # fmt: skip
    variants.scramble(transformers.ViTMAEForPreTraining(config), 5).save_pretrained(folder)


def test_its_epsilon_is_kept_or_told(tmp_path, capsys):
    """Files of Hugging Face have 1e-12; one of 1e-3 shows where it is lost."""
    hugging_face_file(tmp_path / "theirs", 1e-3)
    words = ["convert", str(tmp_path / "theirs"), "--to"]
    for to, out in (("hf", "hf"), ("openmae", "o.safetensors")):
        assert main([*words, to, "-o", str(tmp_path / out)]) == 0
        found = openmae.load(tmp_path / out)
        assert {m.eps for m in found.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-3}
    capsys.readouterr()
    assert main([*words, "official", "-o", str(tmp_path / "x.pth")]) == 4
    assert "another epsilon" in capsys.readouterr().err
    hugging_face_file(tmp_path / "usual", 1e-12)
    assert (
        main(
            ["convert", str(tmp_path / "usual"), "--to", "official", "-o", str(tmp_path / "x.pth")]
        )
        == 0
    )
    assert "another epsilon" in capsys.readouterr().err


def test_transformers_stays_silent(tmp_path, capsys):
    save_method(tmp_path / "m.safetensors", mae())
    words = ["convert", str(tmp_path / "m.safetensors"), "--to", "hf", "--json"]
    assert main([*words, "-o", str(tmp_path / "x")]) == 0
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.err.splitlines()] == ["Model", "Check", "Out"]
    values = json.loads(said.out.splitlines()[0])
    assert values["predictions_difference"] < 1e-5
    assert values["loss_difference"] < 1e-5
