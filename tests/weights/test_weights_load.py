"""`openmae.load` and the encoder file: what comes out is what was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import openmae
from openmae.errors import StorageError, UsageError
from openmae.methods.mae import MAE
from openmae.models.encoder import Encoder


@pytest.fixture
def images() -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=made)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("name", ["raw", "ema"])
def test_plain_timm_loads_the_encoder_file_by_its_own_metadata(name, runs, images):
    path = runs / name / "encoder.safetensors"
    meta = metadata(path)
    vit = timm.create_model(**json.loads(meta["timm"]))
    vit.load_state_dict(load_file(path), strict=True)
    mean, std = (torch.tensor(json.loads(meta[n])).view(3, 1, 1) for n in ("mean", "std"))
    model = openmae.load(path)
    assert isinstance(model, Encoder)
    with torch.inference_mode():
        theirs = vit.eval().forward_features((images.float() / 255 - mean) / std)
        assert torch.equal(theirs, model(images))
        assert torch.equal(theirs, openmae.load(runs / name).encoder(images))
    assert theirs.std() > 0
    assert (meta["heads"], meta["weights"]) == ("2", name)


def test_a_run_gives_its_method_with_the_last_weights(runs, images):
    model = openmae.load(runs / "raw")
    assert isinstance(model, MAE)
    assert not model.training
    stored = load_file(runs / "raw/checkpoints/step_00000003/weights.safetensors")
    own = model.state_dict()
    assert own.keys() == stored.keys()
    assert all(torch.equal(own[n], stored[n]) for n in own)
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.isfinite(model(images, noise=noise)["loss"])
    assert (model.target, model.mask_ratio) == ("norm_pixels", 0.75)


def test_a_run_with_averaged_weights_gives_those(runs):
    model = openmae.load(runs / "ema")
    stored = load_file(runs / "ema/checkpoints/step_00000003/weights.safetensors")
    name = "decoder.blocks.0.mlp.fc1.weight"
    assert torch.equal(model.state_dict()[name], stored[f"ema.{name}"])
    assert not torch.equal(model.state_dict()[name], stored[name])


def test_loading_leaves_the_random_state_alone(runs):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    openmae.load(runs / "raw")
    openmae.load(runs / "raw/encoder.safetensors")
    openmae.load("vit_tiny_patch16_224")
    assert torch.equal(torch.rand(3), expected)


def test_head_counts_can_be_replaced(runs, images):
    file = runs / "raw/encoder.safetensors"
    model = openmae.load(runs / "raw", heads=4, decoder_heads=1)
    assert model.encoder.vit.blocks[1].attn.num_heads == 4
    assert model.decoder.blocks[0].attn.num_heads == 1
    alone = openmae.load(file, heads=4)
    with torch.inference_mode():
        assert torch.equal(alone(images), model.encoder(images))
        assert not torch.equal(alone(images), openmae.load(file)(images))
    with pytest.raises((StorageError, UsageError)):
        openmae.load(file, heads=3)  # 16 does not divide


def test_a_timm_name_without_a_tag_has_random_weights_and_says_so(capsys):
    model = openmae.load("vit_tiny_patch16_224", heads=6)
    said = capsys.readouterr()
    assert "random weights" in said.out + said.err
    assert isinstance(model, Encoder)
    assert model.vit.blocks[0].attn.num_heads == 6
    again = openmae.load("vit_tiny_patch16_224")
    assert torch.equal(model.vit.blocks[3].mlp.fc1.weight, again.vit.blocks[3].mlp.fc1.weight)


def test_a_name_with_a_tag_offline_says_why_and_which_tags_there_are(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to huggingface.co")

    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(UsageError) as caught:
        openmae.load("vit_base_patch16_224.mae")
    text = str(caught.value)
    assert "vit_base_patch16_224.mae could not be fetched: no route" in text
    assert "vit_base_patch16_224.mae" in text.splitlines()[-1]
    assert len(text.splitlines()) <= 4


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ("vit_tny_patch16_224", UsageError, "vit_tiny_patch16_224"),
        ("resnet18", UsageError, "not a plain vision transformer"),
        ("nowhere/run", StorageError, "does not exist"),
        ("nowhere.safetensors", StorageError, "does not exist"),
    ],
)
def test_what_is_not_there_is_named(source, error, says):
    with pytest.raises(error, match=says):
        openmae.load(source)


def damage_flip(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 255]) + data[41:]


@pytest.mark.parametrize(
    "damage",
    [lambda d: d[:-100], lambda d: d[:20], lambda d: b"", damage_flip, lambda d: b"\0" * len(d)],
    ids=["short", "shorter", "empty", "header", "zeros"],
)
def test_a_damaged_encoder_file(damage, runs, tmp_path):
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(damage((runs / "raw/encoder.safetensors").read_bytes()))
    with pytest.raises(StorageError, match=r"encoder\.safetensors"):
        openmae.load(path)


def test_other_files_are_not_taken_for_ours(runs, tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(StorageError, match="holds no vision transformer that is known here"):
        openmae.load(tmp_path / "other.safetensors")
    (tmp_path / "weights.pth").write_bytes(b"pickle")
    with pytest.raises(StorageError, match=r"weights\.pth"):
        openmae.load(tmp_path / "weights.pth")
    tensors = load_file(runs / "raw/encoder.safetensors")
    del tensors["norm.weight"]
    meta = metadata(runs / "raw/encoder.safetensors")
    save_file(tensors, tmp_path / "less.safetensors", meta)
    with pytest.raises(StorageError, match=r"norm\.weight"):
        openmae.load(tmp_path / "less.safetensors")


@pytest.fixture
def copy(runs, tmp_path) -> Path:
    return Path(shutil.copytree(runs / "raw", tmp_path / "copy"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def test_a_run_falls_back_from_a_damaged_checkpoint(copy, runs, capsys):
    flip(copy / "checkpoints/step_00000003/weights.safetensors")
    model = openmae.load(copy)
    said = capsys.readouterr()
    assert "fails its checksum; using step_00000002" in said.out + said.err
    stored = load_file(runs / "raw/checkpoints/step_00000002/weights.safetensors")
    assert all(torch.equal(t, stored[n]) for n, t in model.state_dict().items())


def test_a_run_without_a_usable_checkpoint_is_an_error(copy):
    for folder in (copy / "checkpoints").iterdir():
        flip(folder / "weights.safetensors")
    with pytest.raises(StorageError, match="fails its checksum"):
        openmae.load(copy)


def test_a_run_whose_checkpoints_were_removed_gives_its_encoder(copy, images):
    shutil.rmtree(copy / "checkpoints")
    model = openmae.load(copy)
    assert isinstance(model, Encoder)
    with torch.inference_mode():
        assert model(images).shape == (2, 17, 16)
    (copy / "encoder.safetensors").unlink()
    with pytest.raises(StorageError, match="no checkpoint"):
        openmae.load(copy)
