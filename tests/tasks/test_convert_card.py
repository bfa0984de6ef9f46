"""The model card says what is known and nothing that is private; the upload is private and never
asks.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import variants
import yaml
from PIL import Image

import openmae
from openmae.cli import main
from openmae.config import resolve, settings
from openmae.config.recipe import read_recipe
from openmae.methods.mae import MAE
from openmae.weights.methodfile import save_method


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory):
    """A run folder with a score of a probe."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    shutil.copytree(trained, folder)
    (folder / "probe-insects").mkdir()
    scores = {"probe_accuracy": 0.5, "random_weights_probe_accuracy": 0.25, "n": 6, "seed": 3}
    scores |= {"probe_low_95": 0.188, "probe_high_95": 0.812, "data": "/home/me/insects"}
    (folder / "probe-insects/results.json").write_text(json.dumps(scores))
    return folder


def test_the_card_of_a_run(scored, classes, run, tmp_path):
    run("convert", scored, "--to", "timm", "-o", tmp_path / "x")
    card = (tmp_path / "x/README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert (head["license"], head["library_name"]) == ("other", "timm")
    assert head["pipeline_tag"] == "image-feature-extraction"
    config = yaml.safe_load((scored / "config.yaml").read_text())
    assert f"30 images; hash of the list of files {config['resolved']['data_hash']}" in card
    assert "| probe-insects | probe_accuracy | 0.5000 | 0.188 to 0.812 | 6 | 3 |" in card
    assert "| probe-insects | random_weights_probe_accuracy | 0.2500 |  | 6 | 3 |" in card
    assert "CC-BY-NC 4.0" in card
    private = [str(tmp_path), str(scored), str(classes), "/home/me", "00.png", "ant", "bee"]
    assert [word for word in private if word in card] == []
    sums = dict(re.findall(r"- `(\S+)` sha256 `(\w+)`", card))
    files = {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir() if p.name != "README.md"}
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_the_recipe_in_the_card_is_the_runs(scored, run, tmp_path):
    run("convert", scored, "--to", "hf", "-o", tmp_path / "x", "--license", "mit")
    card = (tmp_path / "x/README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
    assert "openmae pretrain IMAGES --recipe recipe.yaml" in card
    (tmp_path / "recipe.yaml").write_text(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    own = read_recipe("pretrain", str(scored / "config.yaml"))
    kind = settings("pretrain")
    again = resolve(
        kind, {"data": "IMAGES"}, read_recipe("pretrain", str(tmp_path / "recipe.yaml"))
    )
    same = resolve(kind, {"data": "IMAGES"}, own).model_dump()
    assert again.model_dump() == {**same, "out": None, "val": None, "init": None}


CODE = [("mae", "timm", "vector"), ("mae", "hf", "vector"), ("grey", "timm", "vector")]
CODE += [("cls", "hf", "probabilities"), ("mean", "timm", "probabilities")]


@pytest.mark.parametrize(("name", "to", "result"), CODE)
def test_the_code_in_the_card_gives_our_output(name, to, result, run, tmp_path, monkeypatch):
    stats = {"mean": [0.1, 0.2, 0.3], "std": [0.2, 0.3, 0.4]} if name != "grey" else {}
    if name in ("mae", "grey"):
        chans = 1 if name == "grey" else 3
        made = MAE(**variants.SIZES, decoder_dim=32, decoder_depth=1, in_chans=chans, **stats)
    else:
        made = openmae.methods.classify.Classifier(
            **variants.SIZES, classes=["a", "b"], pool=name, **stats
        )
    variants.scramble(made, 4)
    save_method(tmp_path / "m.safetensors", made)
    run("convert", tmp_path / "m.safetensors", "--to", to, "-o", tmp_path / "x")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "x/README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save("picture.png")
    found: dict = {}
    exec(code, found)
    images = found["images"] if name == "grey" else pixels.permute(2, 0, 1)[None]
    with torch.inference_mode():
        if result == "vector":
            expected = made.encoder(images)[:, 1:].mean(1)
        else:
            expected = made.logits(images).softmax(-1)
    torch.testing.assert_close(found[result], expected, atol=2e-5, rtol=1e-4)


class Api:
    """What is asked of the hub."""

    private = True

    def __init__(self):
        self.calls = CALLS

    def create_repo(self, name, **options):
        self.calls.append((name, options))
        return SimpleNamespace(repo_id=name)

    def repo_info(self, name):
        return SimpleNamespace(private=self.private)

    def upload_folder(self, repo_id, folder_path):
        self.calls.append((repo_id, sorted(p.name for p in folder_path.iterdir())))


CALLS: list = []


@pytest.fixture
def words(trained, tmp_path, monkeypatch):
    """A command that uploads, to a hub that is not there."""
    CALLS.clear()
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    words = ["convert", str(trained), "--to", "hf", "-o", str(tmp_path / "x")]
    return [*words, "--push-to-hub", "me/mae"]


def test_an_upload_is_private(words, tmp_path, monkeypatch, capsys):
    assert main(words) == 0
    assert "(private)" in capsys.readouterr().out
    files = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert CALLS[0] == ("me/mae", {"private": True, "exist_ok": True})
    assert CALLS[1:] == [("me/mae", files)]
    assert 'from_pretrained("me/mae")' in (tmp_path / "x/README.md").read_text()
    monkeypatch.setattr(Api, "private", False)  # a repository that was there
    assert main([*words, "--overwrite"]) == 0
    assert "PUBLIC" in capsys.readouterr().out


def test_an_upload_that_cannot_work_is_refused_before_anything(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(words) == 2
    assert "HF_TOKEN" in capsys.readouterr().err
    assert main([*words[:-1], "a/b/c"]) == 2
    assert "a/b/c" in capsys.readouterr().err
    assert CALLS == []
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_fails_says_what_is_there(words, tmp_path, monkeypatch, capsys):
    def fails(self, name, **options):
        raise RuntimeError("403 Forbidden: no rights\n in me")

    monkeypatch.setattr(Api, "create_repo", fails)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "403 Forbidden: no rights in me" in error
    assert "is written, and not uploaded" in error
    assert isinstance(openmae.load(tmp_path / "x"), MAE)
