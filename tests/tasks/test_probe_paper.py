"""The paper's probe, the choices of k-NN, and which tokens are read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import openmae
from openmae.cli import main
from openmae.data.loader import ViewBatches
from openmae.data.sources import ArraySource
from openmae.data.transforms import ProbeTransform
from openmae.engine.features import Features, Views
from openmae.errors import DataError
from openmae.tasks.paperprobe import Protocol, batch_of, paper_probe
from openmae.tasks.scoring import linear_probe


def blobs(n: int, seed: int, classes: int = 4) -> Features:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, 8))
    labels = np.arange(n) % classes
    vectors = (centres[labels] + 0.7 * rng.normal(size=(n, 8))).astype(np.float32)
    return Features(vectors, labels.astype(np.int64), [f"{seed}/{i}.png" for i in range(n)])


def once(features: Features) -> Views:
    return Views(lambda _: features)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_it_learns_what_the_optimum_knows():
    train, test = blobs(800, 1), blobs(400, 2)
    best = linear_probe(train, test).accuracy
    told = Protocol(epochs=60, warmup_epochs=5, lr=(3.0,))
    found = paper_probe(once(train), test, told)
    assert best > 0.75
    assert found.accuracy == pytest.approx(best, abs=0.04)
    assert found.top5 == 1.0
    assert paper_probe(once(train), test, told) == found


def test_the_rate_is_chosen_on_images_set_aside():
    train, test = once(blobs(800, 1)), blobs(400, 2)
    found = paper_probe(train, test, Protocol(20, 2, (1e-6, 3.0, 1e-5)))
    assert found.lr == 3.0
    assert list(found.tried) == [1e-6, 1e-5, 3.0]
    assert max(found.tried, key=found.tried.__getitem__) == 3.0
    alone = paper_probe(train, test, Protocol(20, 2, (3.0,)))
    assert (found.accuracy, found.top5) == (alone.accuracy, alone.top5)
    assert alone.tried == {}


def test_too_few_images_to_set_aside_take_the_middle_rate():
    few = blobs(2, 1)
    found = paper_probe(once(few), blobs(40, 2), Protocol(2, 0, (0.1, 3.0, 1.0)))
    assert (found.lr, found.tried) == (1.0, {})


def test_views_take_turns():
    one, two = blobs(400, 1), blobs(400, 5)
    two.paths[:] = one.paths
    read: list[int] = []

    def make(number: int) -> Features:
        read.append(number)
        return (one, two)[number]

    test = blobs(400, 2)
    single = paper_probe(once(one), test, Protocol(1, 0, (3.0,)))
    first = paper_probe(Views(make, 2), test, Protocol(1, 0, (3.0,)))
    assert (single.accuracy, single.top5) == (first.accuracy, first.top5)
    assert read == [0]
    paper_probe(Views(make, 2), test, Protocol(4, 0, (3.0,)))
    assert read == [0, 0, 1]


def test_views_that_do_not_fit_are_made_again():
    read: list[int] = []

    def make(number: int) -> Features:
        read.append(number)
        return blobs(10, 1)

    views = Views(make, 3, most=2.5 * blobs(10, 1).vectors.nbytes)
    for number in (0, 1, 2, 2, 0, 1, 2):
        assert len(views[number].labels) == 10
    assert read == [0, 1, 2]  # the last one read is at hand too
    views = Views(make, 3, most=0)
    for number in (0, 1, 2, 0, 1):
        views[number]
    assert read == [0, 1, 2, 0, 1, 2, 1]


def test_images_that_change_between_views_are_an_error():
    with pytest.raises(DataError, match="changed while they were read"):
        Views(lambda number: blobs(10 + number, 1), 2)[1]


def test_the_batch_leaves_some_steps():
    assert batch_of(1_281_167, 16384) == 16384
    assert batch_of(18_000, 16384) == 2250
    assert batch_of(10, 16384) == 10


def test_views_are_a_function_of_seed_view_and_image():
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)
    source = ArraySource("x", images, np.zeros(6, dtype=np.int64), ["a", "b"], range(6))
    transform = ProbeTransform((16, 16), seed=3)
    whole = ViewBatches(source, transform, 6, view=1)[0]["image"]
    parts = ViewBatches(source, transform, 2, view=1)
    assert torch.equal(torch.cat([parts[i]["image"] for i in range(3)]), whole)
    assert not torch.equal(ViewBatches(source, transform, 6, view=0)[0]["image"], whole)
    assert whole.shape == (6, 3, 16, 16)


def test_the_command(trained, classes, run, tmp_path):
    words = ["--epochs", 4, "--warmup-epochs", 1, "--lr", 0.1, 1.0, "--crops", 2, "--workers", 0]
    text = run("probe", trained, classes, "--protocol", "paper", "--out", tmp_path / "x", *words)
    assert "LARS, 4 epochs, base lr 0.1 1, 2 random crops of every image in turn" in text
    assert "base lr chosen on a tenth of the training images" in text
    assert "class token, after the final norm" in text
    found = results(tmp_path / "x")
    assert found["probe_lr"] in (0.1, 1.0)
    assert {"probe_accuracy", "random_weights_probe_accuracy", "majority_accuracy"} <= found.keys()
    assert found["features"] == "class token, after the final norm"


def test_several_k(trained, classes, run, tmp_path):
    run("knn", trained, classes, "--k", 3, 9, "--out", tmp_path / "x", "--workers", 0)
    both = results(tmp_path / "x")
    run("knn", trained, classes, "--k", 9, "--out", tmp_path / "y", "--workers", 0)
    assert both["knn_accuracy_k9"] == results(tmp_path / "y")["knn_accuracy"]
    assert "3 and 9-NN by cosine, votes exp(similarity / 0.07)" in both["how"]


def test_tokens_of_a_layer(trained):
    encoder = openmae.load(trained).encoder
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(encoder.tokens(images), encoder(images))
    before = encoder.tokens(images, norm=False)
    assert torch.equal(encoder.vit.norm(before), encoder(images))
    expected = encoder.vit.forward_intermediates(images, indices=[0], output_fmt="NLC", norm=False)
    first = encoder.tokens(images, layer=1, norm=False)
    assert torch.equal(first[:, encoder.num_prefix_tokens :], expected[1][0])


MISTAKES = {
    "layer": (["knn", "--layer", "9"], 2, "blocks 1 to 1"),
    "k": (["knn", "--k", "0"], 2, "at least 1"),
    "rate": (["probe", "--protocol", "paper", "--lr", "-1"], 2, "greater than 0"),
    "protocol": (["probe", "--protocol", "papers"], 2, "paper"),
    "the other protocol's": (["probe", "--crops", "2"], 2, "a setting of --protocol paper"),
    "no penalty": (["probe", "--protocol", "paper", "--l2", "1"], 2, "--protocol fast"),
    "crops": (["probe", "--protocol", "paper", "--crops", "91"], 2, "at most 90"),
    "twice": (["knn", "--k", "3", "3"], 2, "the same count twice"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, trained, classes, tmp_path, capsys):
    words, code, text = MISTAKES[name]
    out = ["--out", str(tmp_path / "x"), "--workers", "0"]
    assert main([words[0], str(trained), str(classes), *words[1:], *out]) == code
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert not (tmp_path / "x").exists()
