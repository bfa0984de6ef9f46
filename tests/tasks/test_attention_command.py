"""`openmae attention`: the maps of a patch or of the class token, as a picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import openmae
from openmae.cli import main
from openmae.data.decode import decode
from openmae.data.transforms import EvalTransform
from openmae.data.values import Decoding
from openmae.models.attentionmap import attention_of
from openmae.report.attentionpictures import AttentionMap, attention_sheet, effective


def told(words, capsys) -> dict:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("patch", "index"), [("1,2", 6), ("cls", None)])
def test_the_numbers_are_those_of_the_maps(patch, index, trained, classes, tmp_path, capsys):
    file = classes / "ant/03.png"
    options = ["--patch", patch, "--layer", 1]
    found = told(["attention", trained, file, "-o", tmp_path / "a.png", *options], capsys)
    encoder = openmae.load(trained).encoder.eval()
    image = EvalTransform((32, 32))(decode(file, Decoding(3)))
    heads, prefix = attention_of(encoder, image[None], index, 1)
    mean = heads[0].mean(0).double().numpy()
    p = mean / mean.sum()
    assert found["spread"] == pytest.approx(np.exp(-(p * np.log(p)).sum()) / 16, rel=1e-5)
    assert found["prefix_share"] == pytest.approx(float(prefix.mean()), rel=1e-5)
    assert found["n"] == 1
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.height > 144


def test_how_far_it_spreads():
    assert effective(np.full((3, 4), 0.02, np.float32)) == pytest.approx(1)
    one = np.zeros((3, 4), np.float32)
    one[1, 2] = 0.4
    assert effective(one) == pytest.approx(1 / 12)


def test_every_head_has_its_place_and_its_own_scale():
    heads = np.full((10, 2, 2), 0.01, np.float32)
    for head in range(10):
        heads[head, head % 2, 1] = 0.5
    row = AttentionMap("x\n.png", np.zeros((8, 8, 3), np.uint8), heads, np.zeros(10, np.float32))
    sheet = np.asarray(attention_sheet([row], "t", None))
    brightest = (sheet == (252, 244, 164)).all(-1)  # the light yellow of the largest weight
    assert brightest.sum() == (10 + 2) * 72 * 72  # the mean has two such patches
    assert attention_sheet([row], "t", (0, 0)).size == (sheet.shape[1], sheet.shape[0])


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--patch", "9,0"], 2, "--patch 9,0: there are rows 0 to 3, columns 0 to 3"),
        (["--patch", "here"], 2, "give row,column such as 3,7, or cls"),
        (["--layer", "9"], 2, "this encoder has blocks 1 to"),
        (["-o", "x.gif"], 2, "must end in .png, .jpg or .webp"),
    ],
)
def test_mistakes_are_named(words, code, sentence, trained, classes, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = cli("attention", trained, classes, *words)
    assert said.code == code
    assert sentence in said.err
    assert list(tmp_path.iterdir()) == []
