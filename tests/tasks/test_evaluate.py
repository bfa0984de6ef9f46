"""A classifier on other labelled images, on corrupted ones, and on images without labels."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
import variants

import openmae
from openmae.cli import main
from openmae.data.sources import ArraySource
from openmae.data.values import Decoding
from openmae.errors import DataError
from openmae.tasks.evaluate import match

NAMES = ["ant", "bee", "cat"]
SHORT = "--steps 4 --batch-size 4 --warmup-epochs 0 --recipe small --workers 0"


@pytest.fixture(scope="module")
def model(trained, classes, run, tmp_path_factory):
    """A fine-tuned run on ant, bee, cat."""
    out = tmp_path_factory.mktemp("model") / "run"
    run("finetune", trained, classes, "--out", out, *SHORT.split())
    return out


def results(folder):
    return json.loads((folder / "results.json").read_text())


def source(names, labels):
    images = np.zeros((len(labels), 4, 4, 3), dtype=np.uint8)
    return ArraySource("made", images, np.array(labels), names, range(len(labels)))


def test_class_folders(model, classes, run, tmp_path):
    text = run("evaluate", model, classes, "--out", tmp_path / "x", "--workers", 0)
    found = results(tmp_path / "x")
    assert found["n"] == 30
    assert "30 images of 3 classes" in text
    from openmae.data.sources import open_source
    from openmae.data.transforms import EvalTransform

    network, whole = openmae.load(model), open_source(str(classes), Decoding(3))
    images = torch.stack([EvalTransform((32, 32))(whole[i]["image"]) for i in range(30)])
    with torch.inference_mode():
        said = network.logits(images).argmax(1).numpy()
    assert found["accuracy"] == pytest.approx(float((said == whole.labels).mean()))
    assert (tmp_path / "x/pictures/confusion.png").exists()
    run("evaluate", model, classes, "--workers", 0)
    assert results(model / f"evaluate-{classes.name}")["accuracy"] == found["accuracy"]


def test_a_subset_of_the_classes_is_chosen_among(model, classes, run, tmp_path):
    data = tmp_path / "data"
    for name in NAMES[1:]:
        shutil.copytree(classes / name, data / name)
    text = run("evaluate", model, data, "--out", tmp_path / "x", "--workers", 0)
    assert "only these 2 of the model's 3 classes" in text
    rows = list(csv.DictReader((tmp_path / "x/per_class.csv").open()))
    assert [row["class"] for row in rows] == NAMES[1:]


def test_match_by_name_by_order_and_not_at_all(capsys):
    columns, labels = match(source(["b", "a"], [0, 1, 1]), ["a", "b", "c"])
    assert (columns, labels.tolist()) == ([0, 1], [1, 0, 0])
    columns, labels = match(source(["n02", "n01"], [0, 1]), ["0", "1"])
    assert (columns, labels.tolist()) == ([0, 1], [1, 0])
    assert "sorted order" in capsys.readouterr().err
    columns, labels = match(source(["n02", "n01"], [0, 1]), ["LABEL_0", "LABEL_1"])
    assert (columns, labels.tolist()) == ([0, 1], [1, 0])
    with pytest.raises(DataError, match=r"does not know .*first: x.*--class-names FILE"):
        match(source(["a", "x"], [0, 1]), ["a", "b"])
    with pytest.raises(DataError, match="--class-names FILE"):
        match(source(["n01", "n02"], [0, 1]), ["0", "1", "2"])


def test_corruptions(model, classes, run, tmp_path):
    data = tmp_path / "c"
    for name in ("fog", "zoom_blur"):
        for severity in (1, 5):
            shutil.copytree(classes, data / name / str(severity))
    text = run("evaluate", model, data, "--out", tmp_path / "x", "--workers", 0)
    found = results(tmp_path / "x")
    assert "2 corruptions, 4 folders" in text
    assert found["n"] == 120
    assert re.search(r"^zoom_blur error \d", text, re.MULTILINE)
    run("evaluate", model, classes, "--out", tmp_path / "y", "--workers", 0)
    error = 1 - results(tmp_path / "y")["accuracy"]
    assert found["error_fog"] == found["mean_corruption_error"] == pytest.approx(error)
    assert "mCE" not in found
    rows = list(csv.DictReader((tmp_path / "x/corruptions.csv").open()))
    assert rows[0]["severity_2"] == ""


@pytest.mark.parametrize("corrupted", [False, True])
def test_images_that_cannot_be_read_leave_no_folder(corrupted, model, tmp_path, capsys):
    data = tmp_path / "data"
    for name in NAMES[:2]:
        folder = data / ("fog/1" if corrupted else "") / name
        folder.mkdir(parents=True)
        (folder / "broken.png").write_bytes(b"no image")
    words = ["evaluate", str(model), str(data), "--out", str(tmp_path / "x"), "--workers", "0"]
    assert main(words) == 3
    said = capsys.readouterr().err
    assert "no image could be read" in said or "None of 2 images" in said
    assert "broken.png" in said
    assert not (tmp_path / "x").exists()


def test_a_table_comes_before_the_layout_of_corruptions(model, classes, run, tmp_path):
    data = tmp_path / "c"
    for severity in (1, 2):
        shutil.copytree(classes, data / "fog" / str(severity))
    lines = [f"fog/1/{name}/00.png,{name}" for name in NAMES]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(lines))
    words = ["--labels", tmp_path / "t.csv", "--out", tmp_path / "x", "--workers", 0]
    assert "3 images of 3 classes" in run("evaluate", model, data, *words)


def test_predictions_of_images_without_labels(model, classes, run, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(classes, data)
    (data / "ant/broken.png").write_bytes(b"no image")
    words = ["--top", 2, "--probabilities", "--workers", 0]
    text = run("predict", model, data, "-o", tmp_path / "x.csv", *words)
    assert "broken.png" in text
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert len(rows) == 31
    for row in rows[:-1]:
        shares = {name: float(row[name]) for name in NAMES}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert row["class"] == max(shares, key=shares.get)
        assert float(row["confidence"]) == shares[row["class"]] >= float(row["confidence_2"])
    assert rows[-1]["path"] == "ant/broken.png"
    assert rows[-1]["problem"]
    assert not rows[-1]["class"]


def test_several_labels(run, classes, tmp_path):
    made = openmae.methods.classify.Classifier(**variants.SIZES, classes=NAMES, multi_label=True)
    from openmae.weights.methodfile import save_method

    save_method(tmp_path / "m.safetensors", variants.scramble(made, 3))
    table = tmp_path / "t.csv"
    files = sorted(p.relative_to(classes).as_posix() for p in classes.rglob("*.png"))
    lines = [
        f"{name},ant{';bee' if i % 2 else ''}{';cat' if i % 3 else ''}"
        for i, name in enumerate(files)
    ]
    table.write_text("path,label\n" + "\n".join(lines))
    words = ["evaluate", tmp_path / "m.safetensors", classes, "--labels", table]
    text = run(*words, "--out", tmp_path / "x", "--workers", 0)
    assert 0 < results(tmp_path / "x")["mAP"] <= 1
    assert "confusion.png" not in text
    assert not (tmp_path / "x/pictures").exists()
    run("predict", tmp_path / "m.safetensors", classes, "-o", tmp_path / "p.csv", "--workers", 0)
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert all(set(filter(None, row["class"].split(";"))) <= set(NAMES) for row in rows)


MISTAKES = {
    "encoder": (["evaluate", "RUN", "DATA"], 4, "First: openmae finetune"),
    "strange": (["evaluate", "MODEL", "STRANGE"], 3, "does not know"),
    "flat": (["evaluate", "MODEL", "FLAT"], 3, "one folder for each class"),
    "layout": (["evaluate", "MODEL", "DATA", "--layout", "imagenet-c"], 3, "CORRUPTION/SEVERITY"),
    "names": (["evaluate", "MODEL", "DATA", "--class-names", "no.txt"], 3, "cannot be read"),
    "csv": (["predict", "MODEL", "DATA", "-o", "x.txt"], 2, "must end in .csv"),
    "place": (["predict", "MODEL", "DATA", "-o", "no/where/x.csv"], 4, "does not exist"),
    "run": (["evaluate", "MODEL", "RUN"], 3, "is a run folder, not a folder of images"),
    "file": (["evaluate", "MODEL", "DATA", "--out", "FILE"], 4, "is a file. Give another --out"),
    "empty": (["predict", "MODEL", "EMPTY", "-o", "x.csv"], 3, "0 images"),
    "mae": (["predict", "RUN", "DATA", "-o", "x.csv"], 4, "has no classes yet"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, model, trained, classes, make_images, tmp_path, monkeypatch, capsys):
    words, code, text = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    for kind in ("dog", "eel"):
        make_images(tmp_path / "strange" / kind, 2)
    make_images(tmp_path / "flat", 2)
    (tmp_path / "empty").mkdir()
    places = {"RUN": trained, "MODEL": model, "DATA": classes, "STRANGE": tmp_path / "strange"}
    places |= {"FLAT": tmp_path / "flat", "EMPTY": tmp_path / "empty"}
    (tmp_path / "file").write_text("mine")
    places |= {"FILE": tmp_path / "file"}
    before = sorted(tmp_path.rglob("*"))
    assert main([str(places.get(w, w)) for w in words]) == code
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before
