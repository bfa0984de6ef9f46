"""What stands beside a checkpoint is used: heads, pixels, names. Nonsense there does no harm."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import variants
from safetensors.torch import save_file

import openmae
from openmae.errors import OpenMAEError, StorageError
from openmae.methods.classify import Classifier
from openmae.models.encoder import IMAGENET_MEAN
from openmae.weights.hints import Hints, hints
from openmae.weights.writers import FORMATS

PIXELS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
NARROW = {**variants.SIZES, "encoder_args": {"embed_dim": 48, "depth": 2, "num_heads": 3}}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def folder(path, config=None, preprocessor=None):
    """A folder of Hugging Face's, with the model of `variants`."""
    path.mkdir()
    tensors = {n: t.contiguous() for n, t in variants.hugging_face(variants.model()).items()}
    save_file(tensors, path / "model.safetensors")
    heads = {"num_attention_heads": 3, "decoder_num_attention_heads": 16}
    (path / "config.json").write_text(json.dumps({**heads, **(config or {})}))
    if preprocessor is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return path


def pixels(model) -> list[list[float]]:
    encoder = getattr(model, "encoder", model)
    return [encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()]


# There and back.


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("name", ["hf", "timm"])
def test_heads_and_pixels_come_back(name, tmp_path):
    made = variants.scramble(openmae.MAE(**NARROW, decoder_dim=32, decoder_heads=4, **PIXELS), 0)
    FORMATS[name].write(made, tmp_path / "x")
    found = openmae.load(tmp_path / "x")
    encoder = found.encoder if name == "hf" else found
    assert encoder.vit.blocks[0].attn.num_heads == 3
    close(pixels(encoder), [PIXELS["mean"], PIXELS["std"]])
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(encoder(images), made.encoder(images))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("name", ["hf", "timm"])
def test_classes_come_back(name, multi_label, tmp_path):
    more = {"classes": ["ant", "bee", "cat"], "pool": "cls", "multi_label": multi_label}
    made = variants.scramble(Classifier(**NARROW, **PIXELS, **more), 1)
    FORMATS[name].write(made, tmp_path / "x")
    found = openmae.load(tmp_path / "x")
    assert found.classes == ["ant", "bee", "cat"]
    assert found.multi_label == (multi_label and name == "hf")  # timm has no word for it
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(found.logits(images), made.logits(images), rtol=0, atol=1e-6)


def test_a_file_inside_such_a_folder_is_read_as_the_folder(tmp_path):
    path = folder(tmp_path / "x", {"num_attention_heads": 6}, HALF)
    alone = openmae.load(path / "model.safetensors")
    assert alone.encoder.vit.blocks[0].attn.num_heads == 6
    assert pixels(alone) == [[0.5] * 3] * 2


# The image processor of Hugging Face.


@pytest.mark.parametrize(
    ("told", "mean", "std"),
    [
        (HALF, 0.5, 0.5),
        ({**HALF, "do_normalize": False}, 0.0, 1.0),
        ({**HALF, "rescale_factor": 1 / 127.5}, 0.25, 0.25),  # x / 127.5 = 2 x / 255
        ({**HALF, "do_rescale": False}, 0.5 / 255, 0.5 / 255),
        ({"do_normalize": False, "do_rescale": False}, 0.0, 1 / 255),
    ],
)
def test_pixels_are_those_of_the_processor(told, mean, std, tmp_path):
    model = openmae.load(folder(tmp_path / "x", preprocessor=told))
    close(pixels(model), [[mean] * 3, [std] * 3])
    image = torch.full((1, 3, 32, 32), 51, dtype=torch.uint8)
    scale = 1.0 if told.get("do_rescale") is False else told.get("rescale_factor", 1 / 255)
    theirs = 51 * scale
    if told.get("do_normalize", True):
        theirs = (theirs - 0.5) / 0.5
    assert float(model.encoder.normalize(image)[0, 0, 0, 0]) == pytest.approx(theirs, rel=1e-4)


def test_without_a_processor_they_are_imagenets(tmp_path):
    close(pixels(openmae.load(folder(tmp_path / "x")))[:1], [list(IMAGENET_MEAN)])
    five = openmae.load(folder(tmp_path / "y", preprocessor={"image_mean": [0.1] * 5}))
    close(pixels(five)[:1], [list(IMAGENET_MEAN)])


def test_older_folders_of_timm_have_all_at_the_top():
    told = {"architecture": "vit_base_patch16_224", "num_classes": 0, "input_size": [3, 32, 48]}
    found = hints({**told, **PIXELS}, {})
    assert (found.image_size, found.mean) == ((32, 48), (0.1, 0.2, 0.3))


# Nonsense.

JUNK = [None, [], {}, "x", -1, 0, 1.5, True, [1, 2], {"a": 1}, "12", 10**9, [[1]], math.nan, 1e300]
NAMES = (
    "num_attention_heads", "decoder_num_attention_heads", "image_size", "id2label",
    "problem_type", "layer_norm_eps", "norm_pix_loss", "pretrained_cfg", "model_args",
    "architecture", "preprocessor",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_value_is_used_or_counts_as_not_told(name):
    for value in JUNK:
        found = hints({name: value}, {})
        assert found.heads is None or 0 < found.heads <= 4096
        assert found.eps is None or 0 <= found.eps <= 0.1
        assert found.image_size is None or min(found.image_size) >= 1
        assert all(isinstance(n, str) for n in found.classes)
    assert hints({name: None}, {}) == Hints()


@pytest.mark.parametrize("text", ["", "x", "[]", "null", "{}", '{"img_size": "a"}', "-1", "NaN"])
def test_any_metadata_counts_as_not_told(text):
    assert hints({}, {"timm": text, "heads": text}) == Hints()


@pytest.mark.parametrize("text", ["[]", "3", "{", "", "[" * 100_000])
def test_a_configuration_that_is_no_table_is_named(text, tmp_path):
    path = folder(tmp_path / "x")
    (path / "config.json").write_text(text)
    with pytest.raises(StorageError, match=r"config\.json cannot be read"):
        openmae.load(path)


ODD = {
    "scalar": lambda t: torch.zeros(()),
    "empty": lambda t: t[:0],
    "flat": lambda t: t.flatten(),
    "deeper": lambda t: t[None],
    "other": lambda t: torch.zeros(2, 2),
}


@pytest.mark.parametrize("odd", ODD)
def test_tensors_of_another_shape_are_refused(odd, tmp_path):
    whole = variants.hugging_face(variants.model())
    layer = "vit.encoder.layer.0."
    for name in (
        "vit.embeddings.position_embeddings",
        "vit.embeddings.patch_embeddings.projection.weight",
        f"{layer}attention.attention.query.weight",
        f"{layer}intermediate.dense.weight",
        "decoder.decoder_embed.weight",
    ):
        torch.save({**whole, name: ODD[odd](whole[name])}, tmp_path / "x.pth")
        with pytest.raises(OpenMAEError, match=r"^[^\n]*$"):
            openmae.load(tmp_path / "x.pth")


def test_a_block_of_a_high_number_does_not_make_as_many(tmp_path):
    whole = variants.official(variants.model())
    torch.save({**whole, "blocks.900000.norm1.bias": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(StorageError, match=r"of blocks, 3 are there, the last has number 900000"):
        openmae.load(tmp_path / "x.pth")


def test_one_number_is_not_taken_for_a_million(tmp_path):
    whole = variants.official(variants.model())
    huge = torch.zeros(1).expand(10**13)
    torch.save({**whole, "norm.bias": huge}, tmp_path / "x.pth")
    with pytest.raises(StorageError, match=r"norm\.bias is larger than what is stored"):
        openmae.load(tmp_path / "x.pth")


@pytest.mark.parametrize("text", ["null", '"x"', "[null]"])
@pytest.mark.parametrize("name", ["timm", "mean", "std"])
def test_an_encoder_file_with_odd_metadata_is_refused(name, text, tmp_path):
    from openmae.weights import save_encoder

    encoder = variants.model().encoder
    save_encoder(tmp_path / "x.safetensors", encoder, {name: text})
    with pytest.raises(StorageError, match=r"x\.safetensors cannot be loaded"):
        openmae.load(tmp_path / "x.safetensors")


def test_a_text_file_is_not_called_code(tmp_path):
    (tmp_path / "x.csv").write_text("path,label\na,b\n")
    with pytest.raises(StorageError, match=r"x\.csv is no file of weights that is known here"):
        openmae.load(tmp_path / "x.csv")


def test_inspect_says_where_the_pixels_are_from(tmp_path, capsys):
    from openmae.cli import main

    assert main(["inspect", str(folder(tmp_path / "x", preprocessor=HALF))]) == 0
    assert "mean 0.5 0.5 0.5; std 0.5 0.5 0.5\n" in capsys.readouterr().out
    assert main(["inspect", str(folder(tmp_path / "y"))]) == 0
    assert "std 0.229 0.224 0.225 (assumed" in capsys.readouterr().out


def test_words_of_a_file_do_not_move_the_cursor(tmp_path, capsys):
    import argparse

    from openmae.cli import main

    whole = variants.official(variants.model())
    args = argparse.Namespace(norm_pix_loss=True, model="mae\x1b[2J\nNext     rm")
    torch.save({"model": whole, "args": args}, tmp_path / "x.pth")
    torch.save({"model": {**whole, "\x1b[2J\na": torch.zeros(1)}}, tmp_path / "y.pth")
    torch.save({"\x1b[2J\n" + n: torch.zeros(1) for n in "abc"}, tmp_path / "z.pth")
    for name, code in (("x", 0), ("y", 4), ("z", 4)):
        assert main(["inspect", str(tmp_path / f"{name}.pth")]) == code
        said = "".join(capsys.readouterr())
        assert "\x1b" not in said
        assert "\nNext     rm" not in said


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    (tmp_path / "x.pth").touch()
    with pytest.raises(StorageError, match=r"x\.pth cannot be loaded: it is empty"):
        openmae.load(tmp_path / "x.pth")


def test_the_mask_ratio_is_that_of_the_configuration(tmp_path):
    assert openmae.load(folder(tmp_path / "x", {"mask_ratio": 0.5})).mask_ratio == 0.5
    assert openmae.load(folder(tmp_path / "y", {"mask_ratio": "half"})).mask_ratio == 0.75


@pytest.mark.parametrize(
    ("config", "text"),
    [({"hidden_act": "relu"}, "activation relu"), ({"qkv_bias": False}, "no biases")],
)
def test_what_tensors_do_not_show_is_refused(config, text, tmp_path):
    with pytest.raises(StorageError, match=text):
        openmae.load(folder(tmp_path / "x", config))
    assert openmae.load(folder(tmp_path / "y", {"hidden_act": "gelu", "qkv_bias": True}))
