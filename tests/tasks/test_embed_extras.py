"""Duplicates, neighbours and the map of an embedding."""

from __future__ import annotations

import csv
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from openmae.cli import main
from openmae.tasks.neighbours import duplicates, nearest, plane

VECTORS = np.random.default_rng(0).normal(size=(1500, 6)).astype(np.float32)


def test_duplicates_are_all_pairs_above_the_threshold():
    vectors = VECTORS.copy()
    vectors[1400] = vectors[7]
    similar = cosine_similarity(StandardScaler().fit_transform(vectors))
    expected = {(i, j) for i, j in zip(*np.nonzero(np.triu(similar, 1) >= 0.985), strict=True)}
    found = duplicates(vectors, 0.985)
    assert {(i, j) for i, j, _ in found} == expected
    assert found[0][:2] == (7, 1400)
    assert [s for *_, s in found] == sorted((s for *_, s in found), reverse=True)


def test_a_common_part_makes_no_duplicates():
    far = VECTORS + 100
    assert (cosine_similarity(far) > 0.98).all()
    assert len(duplicates(far, 0.98)) == len(duplicates(VECTORS, 0.98)) < 1000


def test_images_that_are_all_the_same_are_duplicates():
    assert [pair[:2] for pair in duplicates(np.ones((2, 4), np.float32), 0.98)] == [(0, 1)]


def test_neighbours_are_scikit_learns():
    found, similar = nearest(VECTORS, 5)
    search = NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute").fit(VECTORS)
    distance, expected = search.kneighbors(VECTORS)
    np.testing.assert_allclose(similar, 1 - distance[:, 1:], atol=1e-5)
    assert (found == expected[:, 1:]).mean() > 0.999
    assert nearest(VECTORS[:3], 10)[0].shape == (3, 2)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_plane_keeps_groups_apart(method):
    centres = np.repeat(np.eye(3, 8) * 20, 20, axis=0)
    vectors = (centres + np.random.default_rng(1).normal(size=(60, 8))).astype(np.float32)
    points = plane(vectors, method)
    assert points.shape == (60, 2)
    assert np.array_equal(points, plane(vectors, method))
    middles = np.array([points[i : i + 20].mean(axis=0) for i in (0, 20, 40)])
    spread = max(points[i : i + 20].std() for i in (0, 20, 40))
    gap = min(np.linalg.norm(middles[a] - middles[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert gap > spread


def test_the_command_writes_all_of_them(trained, classes, run, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(classes, data)
    shutil.copy(data / "ant/00.png", data / "bee/copy.png")
    names = ["--duplicates", tmp_path / "d.csv", "--neighbours", tmp_path / "n.csv"]
    more = ["--neighbour-count", 3, "--map", tmp_path / "m.png", "--workers", 0]
    run("embed", trained, data, "-o", tmp_path / "x.npz", *names, *more)
    pairs = list(csv.DictReader((tmp_path / "d.csv").open()))
    assert ("ant/00.png", "bee/copy.png") in {(p["path_a"], p["path_b"]) for p in pairs}
    near = list(csv.DictReader((tmp_path / "n.csv").open()))
    assert len(near) == 31 * 3
    first = next(r for r in near if r["path"] == "ant/00.png" and r["rank"] == "1")
    assert float(first["similarity"]) == pytest.approx(1, abs=1e-5)
    picture = Image.open(tmp_path / "m.png")
    assert picture.size == (960, 720)
    assert np.asarray(picture.convert("L")).std() > 3


def test_the_same_twice_to_the_byte(trained, classes, run, tmp_path):
    for name in ("a", "b"):
        run("embed", trained, classes, "-o", tmp_path / f"{name}.csv", "--workers", 0)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--map", "x.jpg"], 2),
        (["--duplicates", "x.txt"], 2),
        (["--neighbours", "no/where/x.csv"], 4),
        (["--duplicate-threshold", "1.5"], 2),
    ],
)
def test_mistakes(words, code, trained, classes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["embed", str(trained), str(classes), "-o", "x.npz", *words]) == code
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_map_as_a_page_shows_every_image(run, trained, classes, tmp_path):
    said = run("embed", trained, classes, "-o", tmp_path / "x.npz", "--map", tmp_path / "m.html")
    assert f"map -> {tmp_path / 'm.html'}" in said
    page = (tmp_path / "m.html").read_text(encoding="utf-8")
    assert page.count("data:image/") == 1  # the script puts it before each
    for name in ("ant/03.png", "bee/09.png", "cat/00.png"):
        assert f'"{name}"' in page
    assert len(re.findall(r'"(?:png|jpeg);base64,', page)) == 30


def test_a_map_is_a_picture_or_a_page(trained, classes, tmp_path, capsys):
    words = ["embed", str(trained), str(classes), "-o", str(tmp_path / "x.npz"), "--map", "m.jpg"]
    assert main(words) == 2
    assert "--map m.jpg: the name must end in .png or .html" in capsys.readouterr().err
