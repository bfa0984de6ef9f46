"""Exported models give PyTorch's outputs at any batch, in the run time they are for."""

from __future__ import annotations

import json

import pytest
import torch
import variants

import openmae
from openmae.cli import main
from openmae.tasks import export
from openmae.weights import save_encoder
from openmae.weights.methodfile import save_method


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_method(path, variants.classifier())
    return path


def test_onnx_of_a_classifier(classifier, run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    text = run("export", classifier, "-o", tmp_path / "x.onnx")
    assert "batches of 1 and 3 by onnxruntime" in text
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    images = torch.randn(5, 3, 32, 32)
    found = session.run(None, {"images": images.numpy()})[0]
    expected = openmae.load(classifier).logits(images)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["0", "1", "2"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.parametrize("output", ["embedding", "tokens"])
def test_torch_export_of_an_encoder_with_8_bit_images(output, classifier, run, tmp_path):
    run("export", classifier, "-o", tmp_path / "x.pt2", "--output", output, "--uint8")
    extra = {"openmae.json": ""}
    program = torch.export.load(tmp_path / "x.pt2", extra_files=extra).module()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    tokens = openmae.load(classifier).encoder(images)
    expected = tokens if output == "tokens" else tokens[:, 1:].mean(1)
    torch.testing.assert_close(program(images), expected, atol=1e-5, rtol=1e-5)
    assert json.loads(extra["openmae.json"])["input"] == "images (B, 3, 32, 32) uint8"


def test_mistakes(classifier, trained, tmp_path, monkeypatch, capsys):
    assert main(["export", str(classifier), "-o", str(tmp_path / "x.pb")]) == 2
    assert main(["export", str(trained), "-o", str(tmp_path / "x.pt2"), "--output", "logits"]) == 2
    assert main(["export", str(classifier), "-o", str(tmp_path / "no/x.onnx")]) == 4
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(classifier), "-o", str(tmp_path / "x.onnx")]) == 2
    assert 'pip install "openmae[export]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_decoder_and_what_a_caller_must_know(trained, run, tmp_path):
    run("export", trained, "-o", tmp_path / "x.pt2", "--pool", "cls")
    extra = {"openmae.json": ""}
    program = torch.export.load(tmp_path / "x.pt2", extra_files=extra)
    model = openmae.load(trained)
    assert not [name for name in program.state_dict if "decoder" in name]
    images = torch.randn(2, 3, 32, 32)
    expected = model.encoder(images)[:, 0]
    torch.testing.assert_close(program.module()(images), expected, atol=1e-5, rtol=1e-5)
    about = json.loads(extra["openmae.json"])
    assert (about["pool"], json.loads(about["image_size"])) == ("cls", [32, 32])
    assert json.loads(about["mean"]) == model.encoder.mean.flatten().tolist()


def test_the_encoder_file_of_a_classifier_has_logits(classifier, run, tmp_path):
    save_encoder(tmp_path / "e.safetensors", openmae.load(classifier).encoder, {})
    run("export", tmp_path / "e.safetensors", "-o", tmp_path / "x.pt2")
    images = torch.randn(2, 3, 32, 32)
    found = torch.export.load(tmp_path / "x.pt2").module()(images)
    torch.testing.assert_close(found, openmae.load(classifier).logits(images))


def test_a_wrong_export_is_not_left_behind(classifier, tmp_path, monkeypatch, capsys):
    words = ["export", str(classifier), "-o", str(tmp_path / "x.pt2")]
    forward = export.Exported.forward
    shift = 0.5

    def shifted(self, images):
        return forward(self, images) + (shift if torch.compiler.is_exporting() else 0)

    monkeypatch.setattr(export.Exported, "forward", shifted)
    for shift in (0.5, float("nan")):
        assert main(words) == 4
        assert f"differs by {shift}" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


def test_refused_before_anything_is_made(trained, tmp_path, monkeypatch, capsys):
    sizes = {"embed_dim": 48, "depth": 1, "num_heads": 3, "class_token": False}
    made = openmae.MAE(**{**variants.SIZES, "encoder_args": sizes})
    save_method(tmp_path / "m.safetensors", made)
    words = ["export", str(tmp_path / "m.safetensors"), "--dry-run", "-o"]
    assert main([*words, str(tmp_path / "x.pt2"), "--pool", "cls"]) == 2
    assert "no class token" in capsys.readouterr().err
    monkeypatch.setattr(export, "_LARGEST", 1000)
    monkeypatch.setattr(export, "_NEEDED", ())
    assert main([*words, str(tmp_path / "x.onnx")]) == 2
    assert "at most 2 GB" in capsys.readouterr().err
    (tmp_path / "x.onnx").mkdir()
    assert main([*words, str(tmp_path / "x.onnx")]) == 4
