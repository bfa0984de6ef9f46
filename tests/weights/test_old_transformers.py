"""There and back with transformers 4, which has an environment of its own (make old-transformers).

The library runs in a process beside (old_transformers.py). Every weight is random, because its own
new models have no decoder positions and no mask token since 4.51: zeros would hide a wrong table.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from old_transformers import randomise
from safetensors.torch import load_file, save_file
from torch import Tensor

import openmae
from openmae.cli import main
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.weights.container import read_raw
from openmae.weights.methodfile import save_method
from openmae.weights.writers import FORMATS
from openmae.weights.writers_official import official_names

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("old_transformers.py")
WANTED = ("4.57.6", "4.50.3")  # of the Makefile; others that are there are tried as well
FOUND = [p.parent.name.split("-")[-1] for p in sorted(ROOT.glob(".venv-transformers-*/.ready"))]
LIMIT = 1e-5

SHAPES = {  # name of the encoder, its blocks, and the decoder's width, blocks and heads
    "tiny": ("vit_tiny_patch16_224", 12, (192, 4, 3)),
    "base": ("vit_base_patch16_224", 2, (512, 8, 16)),
}
GENERATOR = torch.Generator().manual_seed(7)
IMAGES = 0.5 + 0.5 * torch.randn(2, 3, 224, 224, generator=GENERATOR)
NOISE = torch.rand(2, 196, generator=GENERATOR)
LABELS = torch.tensor([2, 0])


class Old:
    """The process with the old library; `ask` gives it a job and waits for the answer."""

    def __init__(self, version: str, folder: Path) -> None:
        self.version, self.folder, self.count = version, folder, 0
        python = ROOT / f".venv-transformers-{version}/bin/python"
        self.process = subprocess.Popen(
            [python, "-I", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            text=True,
        )

    def ask(self, kind: str, inputs: dict[str, Tensor], **job) -> dict[str, Tensor]:
        """What it computes; a loaded model had every key of its file and no other."""
        self.count += 1
        files = [self.folder / f"{what}-{self.count}" for what in ("inputs", "outputs")]
        save_file(inputs, files[0])
        job |= {"kind": kind, "inputs": files[0], "outputs": files[1]}
        print(json.dumps(job, default=str), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline() or '{"error": "the process has ended"}'
        assert json.loads(answer) == {"version": self.version, "told": {}}
        return load_file(files[1])

    def close(self) -> None:
        self.process.communicate(timeout=60)  # the end of its input ends it


@pytest.fixture(scope="module", params=sorted({*WANTED, *FOUND}))
def old(request, tmp_path_factory):
    if request.param not in FOUND:
        pytest.skip(f"transformers {request.param} has no environment here: make old-transformers")
    running = Old(request.param, tmp_path_factory.mktemp("old"))
    yield running
    running.close()


@pytest.fixture(params=SHAPES)
def shape(request):
    return request.param


def close(what: str, found: Tensor, want: Tensor) -> None:
    """At most LIMIT apart; says how far (pytest -rP shows it)."""
    assert want.ndim == 0 or want.std() > 0.1
    difference = (found - want).abs().max().item()
    print(f"{what}: {difference:.2g} of {want.abs().max():.3g}")
    assert difference <= LIMIT


def sizes(shape: str) -> dict:
    name, depth, _ = SHAPES[shape]
    return {"encoder": name, "encoder_args": {"depth": depth}}


def mae(shape: str, **more) -> MAE:
    width, depth, heads = SHAPES[shape][2]
    decoder = {"decoder_dim": width, "decoder_depth": depth, "decoder_heads": heads}
    return randomise(MAE(**sizes(shape), **decoder, **more), 0)


def classifier(shape: str) -> Classifier:
    return randomise(Classifier(**sizes(shape), classes=["ant", "bee", "cat"], pool="cls"), 1)


def config(shape: str) -> dict:
    """The words of transformers for the same encoder."""
    width, heads = {"tiny": (192, 3), "base": (768, 12)}[shape]
    return {
        "hidden_size": width,
        "num_hidden_layers": SHAPES[shape][1],
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


def decoder_config(shape: str) -> dict:
    width, depth, heads = SHAPES[shape][2]
    return {
        "decoder_hidden_size": width,
        "decoder_num_hidden_layers": depth,
        "decoder_num_attention_heads": heads,
        "decoder_intermediate_size": 4 * width,
    }


def convert(source: Path, to: str, out: Path, *more: str) -> Path:
    assert main(["convert", str(source), "--to", to, "-o", str(out), *more]) == 0
    return out


# Ours -> theirs.


@pytest.mark.parametrize("target", ["pixels", "norm_pixels"])
def test_a_masked_autoencoder_goes_there(old, shape, target, tmp_path):
    made = mae(shape, target=target)
    save_method(tmp_path / "ours.safetensors", made)
    folder = convert(tmp_path / "ours.safetensors", "hf", tmp_path / "hf")
    inputs = {"pixel_values": IMAGES, "noise": NOISE}
    found = old.ask("ViTMAEForPreTraining", inputs, folder=folder)
    with torch.inference_mode():
        want = made(IMAGES, noise=NOISE, full=True)
    assert torch.equal(found["mask"], want["mask"])
    close("logits", found["logits"], want["pred"])
    close("loss", found["loss"], want["loss"])


def test_an_encoder_goes_there(old, shape, tmp_path):
    made = mae(shape).encoder
    FORMATS["openmae"].write(made, tmp_path / "ours.safetensors")
    folder = convert(tmp_path / "ours.safetensors", "hf", tmp_path / "hf")
    more = {"add_pooling_layer": False}
    found = old.ask("ViTModel", {"pixel_values": IMAGES}, folder=folder, more=more)
    with torch.inference_mode():
        close("tokens", found["last_hidden_state"], made(IMAGES))


def test_a_classifier_goes_there(old, shape, tmp_path):
    made = classifier(shape)
    save_method(tmp_path / "ours.safetensors", made)
    folder = convert(tmp_path / "ours.safetensors", "hf", tmp_path / "hf")
    inputs = {"pixel_values": IMAGES, "labels": LABELS}
    found = old.ask("ViTForImageClassification", inputs, folder=folder)
    with torch.inference_mode():
        close("logits", found["logits"], made.logits(IMAGES))
        close("loss", found["loss"], made({"image": IMAGES, "label": LABELS})["loss"])


# Theirs -> ours, with their own epsilon of 1e-12.


SAVED = {  # the file that must be there -> norm_pix_loss, and how save_pretrained is called
    "model.safetensors": (False, {"safe_serialization": True}),
    "pytorch_model.bin": (True, {"safe_serialization": False}),
    "model.safetensors.index.json": (True, {"safe_serialization": True, "max_shard_size": "10MB"}),
}


@pytest.mark.parametrize("file", SAVED)
def test_their_masked_autoencoder_comes_here(old, shape, file, tmp_path):
    norm, how = SAVED[file]
    words = {**config(shape), **decoder_config(shape), "norm_pix_loss": norm}
    inputs = {"pixel_values": IMAGES, "noise": NOISE}
    saved = {"config": words, "seed": 3, "save": tmp_path / "x", "how": how}
    want = old.ask("ViTMAEForPreTraining", inputs, **saved)
    assert (tmp_path / "x" / file).is_file()
    tensors = read_raw(tmp_path / "x").tensors
    assert "vit.encoder.layer.1.attention.attention.query.weight" in tensors
    assert all(t.std() > 0.01 for t in tensors.values())  # both tables of positions as well
    made = openmae.load(tmp_path / "x")
    assert isinstance(made, MAE)
    assert made.target == ("norm_pixels" if norm else "pixels")
    with torch.inference_mode():
        found = made(IMAGES, noise=NOISE, full=True)
    assert torch.equal(found["mask"], want["mask"])
    close("logits", found["pred"], want["logits"])
    close("loss", found["loss"], want["loss"])


def test_their_encoder_comes_here(old, shape, tmp_path):
    """With its pooler, which no other format has."""
    saved = {"config": config(shape), "seed": 4, "save": tmp_path / "x"}
    want = old.ask("ViTModel", {"pixel_values": IMAGES}, **saved)
    with torch.inference_mode():
        found = openmae.load(tmp_path / "x")(IMAGES)
    close("tokens", found, want["last_hidden_state"])


def test_their_classifier_comes_here(old, shape, tmp_path):
    names = {"id2label": {0: "ant", 1: "bee", 2: "cat"}, "label2id": {"ant": 0, "bee": 1, "cat": 2}}
    saved = {"config": config(shape) | names, "seed": 5, "save": tmp_path / "x"}
    want = old.ask("ViTForImageClassification", {"pixel_values": IMAGES}, **saved)
    made = openmae.load(tmp_path / "x")
    assert isinstance(made, Classifier)
    assert made.classes == ["ant", "bee", "cat"]
    with torch.inference_mode():
        close("logits", made.logits(IMAGES), want["logits"])


# All the way round.


def go_round(old: Old, kind: str, made, tmp_path: Path, *more: str, **inputs: Tensor) -> Tensor:
    """Official -> ours -> Hugging Face -> saved by the old library -> official, and -> timm; what
    the old library computes on the way.
    """
    FORMATS["official"].write(made, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", "openmae", tmp_path / "b.safetensors", *more)
    convert(tmp_path / "b.safetensors", "hf", tmp_path / "c")
    inputs = {"pixel_values": IMAGES, **inputs}
    computed = old.ask(kind, inputs, folder=tmp_path / "c", save=tmp_path / "d")
    convert(tmp_path / "d", "official", tmp_path / "e.pth")
    convert(tmp_path / "d", "timm", tmp_path / "f")
    want = official_names(made)
    back, encoder = (read_raw(tmp_path / name).tensors for name in ("e.pth", "f"))
    assert back.keys() == want.keys()
    assert encoder.keys() == {n for n in want if not n.startswith(("decoder", "mask_token"))}
    for found in (back, encoder):
        assert all(torch.equal(found[n], want[n]) for n in found)
    return computed["logits"]


def test_a_masked_autoencoder_round_the_formats(old, shape, tmp_path):
    made, heads = mae(shape), str(SHAPES[shape][2][2])
    words = ("--decoder-heads", heads)  # the official format does not hold them
    logits = go_round(old, "ViTMAEForPreTraining", made, tmp_path, *words, noise=NOISE)
    with torch.inference_mode():
        close("logits", logits, made(IMAGES, noise=NOISE, full=True)["pred"])


def test_a_classifier_round_the_formats(old, shape, tmp_path):
    made = classifier(shape)
    logits = go_round(old, "ViTForImageClassification", made, tmp_path)
    with torch.inference_mode():
        close("logits", logits, made.logits(IMAGES))
