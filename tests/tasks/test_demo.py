"""`openmae demo`: what it offers, what it refuses, and models of every kind."""

from __future__ import annotations

import builtins
import json
import re

import numpy as np
import pytest

import openmae
from openmae.cli import main
from openmae.config import resolve
from openmae.config.demo import DemoConfig
from openmae.engine.device import resolve_device
from openmae.report.explorer import Ask, Explorer
from openmae.tasks import demo
from openmae.tasks.decoding import decoding_of
from openmae.tasks.demoimages import embedded_in
from openmae.tasks.reconstruct import pictured
from openmae.weights.steps import Steps

pytest.importorskip("fastapi", reason="demo needs FastAPI")


def explorer_of(run, *images, **more) -> Explorer:
    """What `demo` would serve."""
    given = {"model": str(run), "images": tuple(map(str, images)), **more}
    config = resolve(DemoConfig, {k: v for k, v in given.items() if v not in ((), None)})
    loaded, method = pictured(config.model, "demo")
    found = demo._images(config, loaded, method)
    source = found.source if found else None
    embedded = embedded_in(config, method.encoder, source)
    return Explorer(
        Steps(loaded, resolve_device("cpu")), str(run), loaded.what, decoding_of(method.encoder),
        source, found.about if found else "", found.word if found else None, embedded,
    )  # fmt: skip


def test_the_images_of_the_run_are_offered(trained, classes):
    explorer = explorer_of(trained)
    assert explorer.about()["samples"] == 30
    assert explorer.about()["about_samples"] == "training images of the run"
    found = explorer.reconstruct(Ask(3))
    assert f"{classes}/ant/03.png" in found["command"]
    assert explorer.sample(0).startswith(b"\x89PNG")


def test_held_out_images_come_first(run, sized, classes, tmp_path):
    run("pretrain", classes, "--out", tmp_path / "r", *sized("--val", 0.3), "--steps", 1)
    explorer = explorer_of(tmp_path / "r")
    assert explorer.about()["about_samples"] == "held-out images of the run"
    assert 0 < explorer.about()["samples"] < 30


def test_without_the_data_the_page_still_opens(trained, tmp_path, capsys):
    import shutil

    shutil.copytree(trained, tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    text = config.read_text()
    config.write_text(re.sub(r"(?m)^data: .*", "data: /nowhere/at/all", text))
    assert explorer_of(tmp_path / "run").about()["samples"] == 0
    assert "the run's images are not there" in capsys.readouterr().err


def test_neighbours_of_what_embed_wrote(run, trained, classes, tmp_path, capsys):
    for suffix in ("npz", "parquet"):
        if suffix == "parquet":
            pytest.importorskip("pyarrow")
        out = tmp_path / f"v.{suffix}"
        run("embed", trained, classes, "-o", out)
        explorer = explorer_of(trained, embeddings=str(out))
        found = explorer.neighbours(7)
        assert found[0]["name"] == explorer.source.path(7)
        assert found[0]["similarity"] == pytest.approx(1, abs=1e-5)
        assert all(one["picture"] for one in found)
        assert explorer.neighbour(found[1]["index"]).startswith(b"\x89PNG")
    capsys.readouterr()
    with np.load(tmp_path / "v.npz") as file:
        vectors = {**file}
    other = tmp_path / "other.npz"
    np.savez(other, **{**vectors, "vector": -vectors["vector"]})
    explorer_of(trained, embeddings=str(other))
    assert "another vector" in capsys.readouterr().err
    np.savez(other, **{**vectors, "path": np.array([f"x{i}" for i in range(30)])})
    assert not explorer_of(trained, embeddings=str(other)).neighbours(0)[0]["picture"]
    assert "their names are shown" in capsys.readouterr().err


def test_bands_and_deep_values(run, sized, make_images, tmp_path):
    folder = make_images(tmp_path / "bands", channels=5)
    options = sized("--channels", 5, "--target", "pixels")
    run("pretrain", folder, "--out", tmp_path / "r", *options, "--steps", 1)
    explorer = explorer_of(tmp_path / "r")
    about = explorer.about()
    assert (about["channels"], about["bands"], about["shown"]) == (5, [1, 2, 3, 4, 5], (1, 2, 3))
    assert not about["normalised"]
    found = explorer.reconstruct(Ask(0, bands=(5,)))
    assert found["title"].startswith("band 5 of 5")
    assert "--bands 5" in found["command"]
    json.dumps({**found, **about}, allow_nan=False)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("{run}/encoder.safetensors", 4, "has no decoder. demo needs"),
        ("{run} --host 0.0.0.0", 2, "Add --allow-remote"),
        ("{run} --host nowhere.invalid --allow-remote", 4, "cannot be opened"),
        ("{run} --port 70000", 2, "65535"),
        ("{run} {data}/nothing.png", 3, "does not exist"),
        ("{run} --static x.png", 2, "must end in .html"),
        ("{run} --static {data}/no/x.html", 4, "does not exist"),
        ("{run} --embeddings nowhere.npz", 4, "nowhere.npz"),
        ("{run} --embeddings {data}", 2, "must end in .npz or .parquet"),
        ("{run} --embedded {data}", 2, "--embeddings"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(words, code, says, trained, classes, cli):
    said = cli("demo", *words.format(run=trained, data=classes).split(), "--dry-run")
    assert said.code == code
    assert says in said.err
    assert len(said.err.strip().splitlines()) <= 2


def test_a_model_whose_target_is_no_picture(run, sized, classes, tmp_path, cli):
    run("pretrain", classes, "--out", tmp_path / "r", *sized("--target", "hog"), "--steps", 1)
    said = cli("demo", tmp_path / "r", "--dry-run")
    assert said.code == 2
    assert "demo needs a model of target pixels or norm_pixels" in said.err


def test_without_fastapi_the_command_says_what_to_install(trained, cli, monkeypatch):
    inner = builtins.__import__

    def without(name, *more):
        if name == "fastapi":
            raise ImportError(name)
        return inner(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    said = cli("demo", trained)
    assert said.code == 2
    assert 'pip install "openmae[demo]"' in said.err
    assert len(said.err.splitlines()) == 1


def test_a_dry_run_serves_and_writes_nothing(trained, classes, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("demo", trained, "--port", 0, "--dry-run").code == 0
    assert cli("demo", trained, classes, "--static", "x.html", "--dry-run").code == 0
    assert list(tmp_path.iterdir()) == []


def test_reconstruct_by_hand_and_at_a_step(run, trained, classes, tmp_path, cli):
    image, out = classes / "ant/00.png", tmp_path / "x.png"
    said = run("reconstruct", trained, image, "--hide", "0-3,15", "-o", out)
    assert "masked-patch MSE" in said
    steps = Steps(openmae_loaded(trained)).listed()
    run("reconstruct", trained, image, "--step", steps[0], "-o", out)
    assert cli("reconstruct", trained, image, "--step", 999, "-o", out).code == 2
    for wrong in ("0-15", "16", "x", "3-1"):
        said = cli("reconstruct", trained, image, "--hide", wrong, "-o", out)
        assert said.code == 2
        assert f"--hide {wrong}" in said.err
    said = cli("reconstruct", trained, image, "--hide", "1", "--mask-ratio", 0.5, "-o", out)
    assert said.code == 2
    assert "drop --mask" in said.err


def openmae_loaded(run):
    from openmae.weights import load_any

    return load_any(str(run))


def test_the_python_function_is_there():
    assert "static" in openmae.demo.__signature__.parameters
    assert main(["demo", "--help"]) == 0
