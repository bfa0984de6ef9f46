"""Conversions keep the outputs, and others' own code reads them; inspect says what a file is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import variants

import openmae
from openmae.cli import main
from openmae.methods.classify import Classifier
from openmae.models.encoder import Encoder
from openmae.tasks import convert
from openmae.weights import load_any, save_encoder

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
NOISE = torch.rand(2, 16, generator=torch.Generator().manual_seed(8))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A masked autoencoder, an encoder and classifiers as files."""
    root = tmp_path_factory.mktemp("files")
    made = variants.official(variants.model())
    encoder = {n: t for n, t in made.items() if not n.startswith(("decoder", "mask"))}
    all_of = {
        "mae": made,
        "encoder": encoder,
        "mean": variants.official(variants.classifier("mean")),
        "cls": variants.official(variants.classifier("cls")),
    }
    for name, state in all_of.items():
        torch.save({"model": state}, root / f"{name}.pth")
    return {name: root / f"{name}.pth" for name in all_of}


def same(first, second) -> None:
    if isinstance(first, openmae.MAE):
        outputs = [m(IMAGES, noise=NOISE, full=True) for m in (first, second)]
        assert torch.equal(outputs[0]["pred"], outputs[1]["pred"])
        assert torch.equal(outputs[0]["loss"], outputs[1]["loss"])
    elif isinstance(first, Classifier):
        assert torch.equal(first.logits(IMAGES), second.logits(IMAGES))
    else:
        assert torch.equal(first(IMAGES), second(IMAGES))


@pytest.mark.parametrize("name", ["mae", "encoder", "mean", "cls"])
@pytest.mark.parametrize("to", ["official", "hf", "timm", "openmae"])
def test_there_and_back(name, to, files, run, tmp_path):
    if (name, to) == ("mean", "hf"):
        assert main(["convert", str(files[name]), "--to", to, "-o", str(tmp_path / "x")]) == 2
        return
    out = tmp_path / ("x" if to in ("hf", "timm") else "x.safetensors")
    text = run("convert", files[name], "--to", to, "-o", out)
    assert "read back by" in text
    first, second = openmae.load(files[name]), openmae.load(out)
    if (name, to) == ("mae", "timm"):
        assert "decoder is left out" in text
        first = first.encoder
    assert type(second) is type(first)
    same(first, second)
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_official_file_is_one_for_the_official_loader(files, run, tmp_path):
    run("convert", files["mae"], "--to", "official", "-o", tmp_path / "x.pth")
    found = torch.load(tmp_path / "x.pth", weights_only=True)["model"]
    before = torch.load(files["mae"], weights_only=True)["model"]
    assert found.keys() == before.keys()
    assert all(torch.equal(found[n], before[n]) for n in found)


def test_transformers_loads_every_weight(files, run, tmp_path):
    transformers = pytest.importorskip("transformers")
    for name, kind in (
        ("mae", transformers.ViTMAEForPreTraining),
        ("cls", transformers.ViTForImageClassification),
    ):
        run("convert", files[name], "--to", "hf", "-o", tmp_path / name)
        theirs, told = kind.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not told["missing_keys"]
        assert not told["unexpected_keys"]
        ours = openmae.load(files[name])
        if name == "mae":
            expected = ours(IMAGES, noise=NOISE)["loss"]
            torch.testing.assert_close(theirs.eval()(IMAGES, noise=NOISE).loss, expected)
        else:
            expected = ours.logits(IMAGES)
            logits = theirs.eval()(IMAGES).logits
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    processor = json.loads((tmp_path / "mae/preprocessor_config.json").read_text())
    assert processor["image_mean"] == pytest.approx([0.485, 0.456, 0.406])


def test_timm_loads_it_as_its_own(files, run, tmp_path):
    import timm

    run("convert", files["mean"], "--to", "timm", "-o", tmp_path / "x")
    vit = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True).eval()
    assert torch.equal(vit(IMAGES), openmae.load(files["mean"]).logits(IMAGES))
    assert vit.pretrained_cfg["mean"] == pytest.approx([0.485, 0.456, 0.406])


def test_a_run_keeps_target_and_mean(trained, run, tmp_path):
    run("convert", trained, "--to", "openmae", "-o", tmp_path / "x.safetensors")
    first, second = openmae.load(trained), openmae.load(tmp_path / "x.safetensors")
    assert second.arguments == {**first.arguments, "encoder_args": first.arguments["encoder_args"]}
    assert torch.equal(first.encoder.mean, second.encoder.mean)


def test_encoders_come_out_as_encoders(files):
    assert isinstance(load_any(str(files["encoder"])).model, Encoder)


def test_inspect_says_what_it_is(files, run, capsys):
    text = run("inspect", files["mae"])
    assert "masked autoencoder, encoder and decoder, official or timm names" in text
    assert "predicts norm_pixels (assumed" in text
    assert "openmae reconstruct" in text
    assert "cannot reconstruct" in run("inspect", files["encoder"])
    facts = json.loads(run("inspect", files["mean"], "--json").splitlines()[0])
    assert facts["what"] == "classifier"
    assert facts["classes"] == 3
    assert facts["has_decoder"] is False


def test_inspect_of_a_run(trained, run):
    facts = json.loads(run("inspect", trained, "--json").splitlines()[0])
    assert facts["what"] == "mae"
    assert facts["decoder_dim"] == 16


MISTAKES = {
    "no file": (["no.pth", "--to", "hf", "-o", "x"], 2, "no.pth"),
    "format": (["FILE", "--to", "hff", "-o", "x"], 2, "'hf', 'timm'"),
    "suffix": (["FILE", "--to", "official", "-o", "OUT"], 2, ".pth or .safetensors"),
    "folder": (["FILE", "--to", "hf", "-o", "OUT.pth"], 2, "writes a folder"),
    "hub": (["FILE", "--to", "official", "-o", "OUT.pth", "--push-to-hub", "a/b"], 2, "--to hf"),
    "place": (["FILE", "--to", "hf", "-o", "OUT/a/b"], 4, "does not exist"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, files, tmp_path, capsys):
    words, code, text = MISTAKES[name]
    out = str(tmp_path / "out")
    given = [w.replace("FILE", str(files["mae"])).replace("OUT", out) for w in words]
    assert main(["convert", *given]) == code
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_not_replaced_by_accident(files, run, tmp_path, capsys):
    out = tmp_path / "x.pth"
    run("convert", files["mae"], "--to", "official", "-o", out)
    words = ["convert", str(files["encoder"]), "--to", "official", "-o", str(out)]
    assert main(words) == 4
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    words = [
        "convert",
        str(files["mae"]),
        "--to",
        "hf",
        "-o",
        str(tmp_path / "mine"),
        "--overwrite",
    ]
    assert main(words) == 4
    assert (tmp_path / "mine/thesis.txt").exists()


def test_only_outputs_of_the_same_kind_are_replaced(files, run, trained, tmp_path, capsys):
    run("convert", files["mae"], "--to", "hf", "-o", tmp_path / "hf")
    again = ["convert", str(files["mae"]), "--overwrite", "--to"]
    assert main([*again, "timm", "-o", str(tmp_path / "hf")]) == 4
    (tmp_path / "hf/thesis.txt").write_text("x")
    assert main([*again, "hf", "-o", str(tmp_path / "hf")]) == 4
    (tmp_path / "hf/thesis.txt").unlink()
    assert main([*again, "hf", "-o", str(tmp_path / "hf")]) == 0
    torch.save({"model": torch.load(files["mae"])["model"], "epoch": 3}, tmp_path / "run.pth")
    (tmp_path / "notes.safetensors").write_text("x")
    for to, name in (
        ("official", "run.pth"),
        ("official", "notes.safetensors"),
        ("openmae", "notes.safetensors"),
    ):
        before = (tmp_path / name).read_bytes()
        assert main([*again, to, "-o", str(tmp_path / name)]) == 4
        assert (tmp_path / name).read_bytes() == before
    run("convert", trained, "--to", "openmae", "-o", tmp_path / "x.safetensors")
    assert main([*again, "official", "-o", str(tmp_path / "x.safetensors")]) == 4
    assert main([*again, "openmae", "-o", str(tmp_path / "x.safetensors")]) == 0
    assert main([*again, "hf", "-o", "."]) == 4
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("to", ["official", "hf", "timm", "openmae"])
def test_a_wrong_file_is_never_left_behind(to, files, tmp_path, monkeypatch, capsys):
    """A writer that loses something: it is seen, and an earlier output stays."""
    out = tmp_path / ("x" if to in ("hf", "timm") else "x.safetensors")
    words = ["convert", str(files["mae"]), "--to", to, "-o", str(out)]
    assert main(words) == 0
    before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    form = convert.FORMATS[to]

    def wrong(model, path):
        vit = model.encoder.vit
        weight = vit.blocks[0].mlp.fc1.weight
        weight.data[0] += 0.5
        told = form.write(model, path)
        weight.data[0] -= 0.5
        return told

    def broken(model, path):
        told = form.write(model, path)
        file = path / "model.safetensors" if path.is_dir() else path
        file.write_bytes(file.read_bytes()[:-8])
        return told

    for write, text in ((wrong, "differ by"), (broken, "cannot read it back")):
        monkeypatch.setitem(convert.FORMATS, to, form._replace(write=write))
        assert main([*words, "--overwrite"]) == 4
        error = capsys.readouterr().err
        assert text in error
        assert "Traceback" not in error
        after = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
        assert after == before


def test_a_dry_run_refuses_and_writes_nothing(files, tmp_path, capsys):
    for name, to, code in (("mean", "hf", 2), ("mean", "timm", 0)):
        words = ["convert", str(files[name]), "--to", to, "-o", str(tmp_path / "x"), "--dry-run"]
        assert main(words) == code
    assert list(tmp_path.iterdir()) == []


def test_the_encoder_file_of_a_classifier_brings_its_head(files, run, tmp_path):
    for name in ("mean", "cls"):
        save_encoder(tmp_path / "e.safetensors", openmae.load(files[name]).encoder, {})
        expected = openmae.load(files[name]).logits(IMAGES)
        for to, out in (("official", "x.pth"), ("timm", "x"), ("openmae", "y.safetensors")):
            out = f"{name}-{out}"
            run("convert", tmp_path / "e.safetensors", "--to", to, "-o", tmp_path / out)
            assert torch.equal(openmae.load(tmp_path / out).logits(IMAGES), expected)
