"""`openmae compare`: methods on tiny runs, and runs that are there already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gridhere import here  # noqa: F401  (a fixture)

from openmae.cli import main
from openmae.config.recipe import read_recipe
from openmae.tasks.comparedruns import named


@pytest.fixture(scope="module")
def runs(classes, tiny, run, tmp_path_factory) -> list[Path]:
    """Two seeds of one setting and one of another."""
    root = tmp_path_factory.mktemp("runs")
    made = []
    for name, more in (("a0", ["--seed", 0]), ("a1", ["--seed", 1]), ("b", ["--mask-ratio", 0.5])):
        run("pretrain", classes, "--out", root / name, *tiny, "--steps", 3, *more)
        made.append(root / name)
    return made


RECIPES = {"mae": "cifar10", "simclr": "cifar10-simclr", "byol": "cifar10-byol"}


def read(out):
    return json.loads((out / "comparison.json").read_text())


def test_runs_of_one_setting_are_one_row(runs, classes, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(w) for w in ("compare", *runs, "--out", out)]) == 0
    assert "have no scores: --score probe:LABELLED" in capsys.readouterr().out
    html = (out / "comparison.html").read_text()
    assert "<p>No scores.</p>" in html
    assert "All rows" not in html  # what was not chosen here is not told
    own = ["compare", *runs, "--out", out, "--score", f"knn:{classes}"]
    assert main([str(w) for w in own]) == 0
    said, table = capsys.readouterr().out, read(out)
    assert [row["labels"]["run"] for row in table["rows"]] == ["a0, a1", "b"]
    assert [row["n"] for row in table["rows"]] == [2, 1]
    assert table["differences"] == {"mask_ratio": {"a0, a1": "0.75", "b": "0.5"}}
    assert "mask_ratio: a0, a1 0.75, b 0.5" in said
    assert len(table["curves"]["a0, a1"]) == 2
    found = sorted(out.glob("scores/*/results.json"))
    values = {json.loads(p.read_text())["knn_accuracy"] for p in found}
    (score,) = table["scores"]
    assert {v for r in table["rows"] for v in r["scores"][score["key"]]["values"]} == values
    before = {p: p.stat().st_mtime_ns for p in found}
    assert main([str(w) for w in own]) == 0
    assert {p: p.stat().st_mtime_ns for p in found} == before
    assert (out / "losses.png").exists()
    assert "<script" not in (out / "comparison.html").read_text()


def test_scores_that_runs_have_are_read(runs, classes, run, tmp_path):
    for folder in runs[:2]:
        run("knn", folder, classes)
    out = tmp_path / "out"
    assert main([str(w) for w in ("compare", *runs, "--out", out)]) == 0
    (score,) = read(out)["scores"]
    assert score["key"] == f"knn:{classes.name}"
    assert read(out)["rows"][0]["scores"][score["key"]]["n"] == 2
    assert read(out)["rows"][1]["scores"] == {}


def test_a_setting_is_blank_where_a_method_has_none(here, classes, tmp_path):  # noqa: F811
    """The recipe of MAE gives it a decoder that is not the default; SimCLR has no decoder."""
    out = tmp_path / "out"
    own = ["compare", str(classes), "--methods", "mae", "simclr", "--family", "cifar10"]
    own += ["--dim", "16", "--depth", "1", "--heads", "2", "--batch-size", "4", "--steps", "1"]
    own += ["--seeds", "1", "--workers", "0"]
    assert main([*own, "--score", "knn", "--out", str(out)]) == 0
    found = read(out)["differences"]
    assert found["decoder_depth"] == {"mae": "2", "simclr": ""}
    assert found["lr"].keys() == {"mae", "simclr"}
    assert all(found["lr"].values())


def test_methods_with_their_recipes_below_what_was_typed(here, classes, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "out"
    sizes = "--dim 16 --depth 1 --heads 2 --decoder-dim 16 --decoder-depth 1 --decoder-heads 2"
    own = ["compare", str(classes), "--methods", "mae", "simclr", "byol", "--family", "cifar10"]
    own += [*sizes.split(), "--batch-size", "4", "--steps", "2", "--seeds", "1", "--workers", "0"]
    assert main([*own, "--score", "knn", "--out", str(out)]) == 0
    said, table = capsys.readouterr().out, read(out)
    assert [row["labels"]["method"] for row in table["rows"]] == ["mae", "simclr", "byol"]
    assert {row["n"] for row in table["rows"]} == {1}
    lr = {m: f"{read_recipe('pretrain', r)['lr']:g}" for m, r in RECIPES.items()}
    assert table["differences"]["lr"] == lr
    assert "dim" not in table["differences"]
    costs = [row["gflop_per_image"] for row in table["rows"]]
    assert costs[0] < min(costs[1:])  # an MAE sees a quarter of one view
    assert table["curves"] == {} if "curves" in table else True
    assert "losses of different methods cannot be compared" in said
    for folder in out.glob("cells/*/run"):
        assert "dim: 16\n" in (folder / "config.yaml").read_text()
    here.ran.clear()
    assert main([*own, "--score", "knn", "--out", str(out)]) == 0
    assert here.ran == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["digits"], 2, "nothing to compare"),
        (["digits", "--methods", "mea", "mae"], 2, "Did you mean mae?"),
        (["digits", "--methods", "mae", "mae"], 2, "the same method twice"),
        (["RUN", "RUN"], 2, "the same run twice"),
        (["RUN", "digits"], 3, "is no run folder"),
        (["RUN", "OTHER", "--score", "knn"], 2, "say on which images"),
        (["RUN", "OTHER", "--steps", "3"], 2, "is for --methods"),
    ],
)
def test_mistakes(words, code, said, runs, cli_err):
    places = {"RUN": str(runs[0]), "OTHER": str(runs[2])}
    found, err = cli_err("compare", *(places.get(w, w) for w in words))
    assert (found, said in err) == (code, True), err


@pytest.fixture
def cli_err(capsys):
    def call(*words):
        return main(list(words)), capsys.readouterr().err

    return call


def test_names_tell_runs_apart():
    paths = [Path("x/a/run"), Path("x/b/run")]
    assert named(paths) == ["a", "b"]
    assert named([Path("x/a"), Path("y/a")]) == ["x", "y"]
    assert named([Path("x/a"), Path("x/b")]) == ["a", "b"]
