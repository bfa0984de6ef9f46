"""What reading tasks say of a model and of labels is what is so."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

import openmae
from openmae.cli import main
from openmae.errors import StorageError
from openmae.weights import load


def test_a_classifier_by_mean_pool_has_no_final_norm(run, trained, classes, tmp_path):
    words = ["--recipe", "small", "--randaug", "none", "--steps", 2, "--warmup-epochs", 0]
    more = ["--batch-size", 4, "--workers", 0]
    run("finetune", trained, classes, "--out", tmp_path / "f", *words, *more)
    said = run("embed", tmp_path / "f", classes, "-o", tmp_path / "x.npz", "--workers", 0)
    assert "no final norm in this model" in said
    run("knn", tmp_path / "f", classes, "--out", tmp_path / "k", "--no-baselines", "--workers", 0)
    assert json.loads((tmp_path / "k/results.json").read_text())["norm"] == "none"


def test_several_labels_are_said_to_be_one_class(run, trained, classes, tmp_path):
    names = sorted(p.relative_to(classes).as_posix() for p in classes.rglob("*.png"))
    rows = [f"{name},{'a;b' if i % 2 else 'a'}" for i, name in enumerate(names)]
    (tmp_path / "l.csv").write_text("\n".join(["path,label", *rows]))
    words = ["--labels", tmp_path / "l.csv", "--out", tmp_path / "x", "--no-baselines"]
    assert "labels such as 'a;b' count as one class" in run("knn", trained, classes, *words)


def test_init_of_another_size_names_the_options(trained, classes, tmp_path, sized, capsys):
    words = sized("--dim", 24, "--steps", 2, "--init", trained)
    assert main([str(w) for w in ["pretrain", classes, "--out", tmp_path / "x", *words]]) == 2
    error = capsys.readouterr().err
    assert "--dim 16 --depth 1 --heads 2" in error
    assert len(error.splitlines()) <= 4
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("values", ["[]", "[0.5]", '"x"'])
def test_an_encoder_file_whose_mean_does_not_fit_is_refused(values, trained, tmp_path):
    path = tmp_path / "encoder.safetensors"
    encoder = openmae.load(trained / "encoder.safetensors")
    about = {"kind": "openmae-encoder", "timm": json.dumps(encoder.create), "std": "[1, 1, 1]"}
    save_file(load_file(trained / "encoder.safetensors"), path, about | {"mean": values})
    with pytest.raises(StorageError, match="cannot be loaded"):
        load(path)


def test_inspect_reads_a_file_once(trained, tmp_path, run, monkeypatch):
    run("convert", trained, "--to", "official", "-o", tmp_path / "m.pth")
    from openmae.weights import container

    real, read = container.read_raw, []
    monkeypatch.setattr("openmae.weights.foreign.read_raw", lambda *a: read.append(a) or real(*a))
    assert "read as torch" in run("inspect", tmp_path / "m.pth", "--heads", 2)
    assert len(read) == 1
