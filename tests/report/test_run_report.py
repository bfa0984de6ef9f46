"""`openmae report`: a page of whatever is in a run folder, and nothing else in it than text."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import sound
from run_folders import jsonl, row, run_folder

import openmae
from openmae.cli import check, main

STATES = [
    ("done", {}, "finished", "Finished at step 1,000 of 1,000"),
    ("stopped", {"reason": "SIGTERM"}, "stopped", "SIGTERM"),
    ("running", {}, "running", "Running, at step 500 of 1,000"),
    ("failed", {"reason": "no space <left>", "exit_code": 4}, "failed", "no space <left>"),
    ("failed", {"reason": "10 steps", "exit_code": 6}, "diverged", "Diverged at step 500"),
    ("odd", {}, "unknown", "does not say"),
]


def report(*words: object) -> int:
    return main(["report", *map(str, words)])


def page_of(run: Path, *words: object):
    assert report(run, *words) == 0
    return sound((run / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("state", "status", "word", "sentence"), STATES)
def test_every_state_has_its_page(tmp_path, state, status, word, sentence):
    run = run_folder(tmp_path / "run", state, **status)
    page = page_of(run)
    assert f"{word}state" in page.words.replace("\n", "")
    assert sentence in page.words


def test_the_page_holds_what_the_folder_holds(tmp_path):
    run = run_folder(tmp_path / "run")
    page = page_of(run)
    heads = ["Curves", "Reconstructions over time", "Scores", "Commands", "Troubles and restarts",
             "Data", "Settings", "Chosen at the start", "Environment"]  # fmt: skip
    assert page.tags.count("section") == len(heads)
    for head in heads:
        assert head in page.words
    titles = ["Loss", "Scores on the way, %", "Learning rate", "Gradient norm", "Speed, images/s",
              "Waiting for data, %", "Feature spread"]  # fmt: skip
    assert page.tags.count("desc") == len(titles)
    for title in titles:
        assert title in page.words
    assert "training: 0.1 at 10, 1e-3 at 1,000, least 1e-3, most 0.1" in page.words
    assert "held out, fixed masks: 8e-3 at 250, 2e-3 at 1,000" in page.words
    assert len(page.all("img")) == 4
    assert "78.9" in page.words
    assert "77.0 to 81.0" in page.words
    assert "Random weights probe accuracy 38.4" in page.words
    assert "continued at step 200" in page.words  # a mark
    assert "Spike, step 300" in page.words
    assert "What differs from the recipe laptop:" in page.words
    assert "100 s" not in page.words
    assert "2 min" in page.words  # 64,000 images at 640 a second


def test_hostile_names_are_text(tmp_path):
    page = page_of(run_folder(tmp_path / "<b>run"))
    assert "<script>alert(1)</script>" in page.words
    assert "\\n\\u202e<img src=x onerror=alert(2)>" in page.words
    assert page.words.count("\u202e") == 0
    assert len(page.all("img")) == 4
    assert page_of(tmp_path / "<b>run").tags.count("script") == 0


DAMAGE = {
    "config.yaml": ["", "\0\1", "a: [", "- 1", "a: &x 1\nb: *x", "resolved: 3\ntask: [1]\n"],
    "status.json": ["", "{", "[]", '{"state": 3, "step": "x", "total": -1}', '{"step": true}'],
    "environment.json": ["null", '{"versions": 3}'],
    "results.json": ["{", '{"loss": null, "a": {"b": [1]}}'],
    "metrics.jsonl": [
        "", "\n\n", "{\n[]\n3\n", '{"step": "x"}\n', '{"step": null, "loss": 1}\n',
        '{"step": 1, "loss": "nan"}\n{"step": 2, "loss": NaN}\n{"step": 3, "loss": 1e999}\n',
        '{"step": 5, "loss": 1}\n{"step": 2, "loss": [1]}\n{"step": 3, "los', "x" * 5000,
        '{"step": 1, "loss": 0.0}\n{"step": 1, "loss": -3}\n', "[" * 100_000,
        json.dumps({"step": 1, "images_per_s": 0, **{f"n{i}": 1 for i in range(999)}}) + "\n",
        '{"step": 1' + "0" * 400 + ', "loss": 1}\n{"step": -5, "loss": 1e308}\n',
    ],
    "anomalies.jsonl": ["{", '{"step": "x", "what": 3, "batch": 7}\n', '{"what": "Spike"}\n'],
    "restarts.jsonl": ['{"step": []}\n', "3\n"],
    "bad_files.jsonl": ["{}\n", "x\n"],
    "pictures/step_00000250.png": ["", "no picture"],
    "probe-labelled/results.json": ["[", '{"probe_accuracy": "high", "n": []}'],
}  # fmt: skip
TORN = [(name, text) for name, texts in DAMAGE.items() for text in texts]


@pytest.mark.parametrize(("name", "text"), TORN, ids=range(len(TORN)))
def test_a_torn_file_is_passed_over(tmp_path, name, text):
    run = run_folder(tmp_path / "run", "stopped")
    (run / name).write_text(text)
    page_of(run)


@pytest.mark.parametrize("name", ["config.yaml", "status.json", "environment.json"])
def test_what_is_missing_is_said(tmp_path, name):
    run = run_folder(tmp_path / "run")
    (run / name).unlink()
    assert f"{name} is missing" in page_of(run).words
    os.mkdir(run / name)
    assert f"{name} is missing" in page_of(run).words


def test_only_metrics_or_only_a_config_are_enough(tmp_path):
    run = run_folder(tmp_path / "run")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    (tmp_path / "b/config.yaml").write_bytes((run / "config.yaml").read_bytes())
    assert "Loss" in page_of(tmp_path / "a").words
    assert "metrics.jsonl has no rows yet" in page_of(tmp_path / "b").words


def test_several_runs_share_an_axis(tmp_path):
    a, b = run_folder(tmp_path / "x/a"), run_folder(tmp_path / "x/b", "stopped")
    text = (b / "config.yaml").read_text()
    (b / "config.yaml").write_text(text.replace("lr: 0.004", "lr: 0.5").replace("mae", "simclr"))
    out = tmp_path / "both.html"
    assert report(a, b, "-o", out) == 0
    page = sound(out.read_text(encoding="utf-8"))
    assert "a: 0.1 at 640, 1e-3 at 64,000" in page.words
    assert "b: 0.1 at 640, 2e-3 at 32,000" in page.words
    assert "losses cannot be compared" in page.words
    assert "0.5" in page.words
    classes = [a["class"] for a in page.all("path") if "line s" in a.get("class", "")]
    assert {"line s0", "line s1"} <= set(classes)
    assert ".s1 { stroke: var(--c1); stroke-dasharray: 7 3; }" in out.read_text()


def test_runs_in_folders_of_one_name_have_each_a_page_of_its_own_name(tmp_path):
    """As the cells of a grid have."""
    paths = [run_folder(tmp_path / name / "run") for name in ("a", "b")]
    out = tmp_path / "both.html"
    assert report(*paths, "-o", out) == 0
    words = sound(out.read_text(encoding="utf-8")).words
    for name in ("a", "b"):
        assert f"The page of {name}" in words
    assert "The page of run" not in words


@pytest.mark.parametrize("axis", ["steps", "images", "epochs", "hours"])
def test_axes(tmp_path, axis):
    run = run_folder(tmp_path / "run")
    page = page_of(run, "--axis", axis)
    ends = {"steps": "1,000", "images": "64,000", "epochs": "16", "hours": "0.02778"}
    assert f"training: 0.1 at {ends_first(axis)}, 1e-3 at {ends[axis]}" in page.words


def ends_first(axis: str) -> str:
    return {"steps": "10", "images": "640", "epochs": "0.16", "hours": "2.78e-4"}[axis]


def test_the_commands_are_ones(tmp_path):
    page = page_of(run_folder(tmp_path / "run"))
    lines = [line for line in page.words.splitlines() if line]
    found = [w for line in lines for w in line.split("openmae ")[1:] if str(tmp_path) in w]
    assert len(found) >= 3
    run = run_folder(tmp_path / "named")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("data:", "other:", 1) + "data: photos\n")
    again = shlex.split(f"report {shlex.quote(str(run))}")
    assert check(again)[0] == "report"


def test_figures_are_written(tmp_path):
    run = run_folder(tmp_path / "run", "stopped")
    jsonl(run / "metrics.jsonl", [row(1, **{"a$b/../c": 1.0}), row(2, **{"a$b/../c": 2.0})])
    found = openmae.write_report(str(run), figures=tmp_path / "figures")
    assert {"loss.png", "loss.svg", "lr.png", "a_b_.._c.svg"} <= set(found["figures"])
    assert sorted(found["figures"]) == sorted(p.name for p in (tmp_path / "figures").iterdir())
    assert (tmp_path / "figures/loss.svg").read_bytes().startswith(b"<?xml")


def test_mistakes_get_a_line(tmp_path, capsys):
    run = run_folder(tmp_path / "runs/a")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.docx").write_text("work")
    for words, code, part in (
        ([tmp_path / "nowhere"], 3, "does not exist"),
        ([tmp_path / "mine"], 3, "no run folder"),
        ([tmp_path / "runs"], 3, f"Did you mean {run}?"),
        ([run, run], 2, "twice"),
        ([run, "-o", "x.pdf"], 2, "ends in .html"),
        ([run, "--figures", run], 4, "is a run folder"),
        ([], 2, "RUNS"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert report(*words) == code
        said = capsys.readouterr().err
        assert part in said
        assert len(said.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_neither_torch_nor_a_written_file(tmp_path):
    run = run_folder(tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    code = (
        "import sys\nfrom openmae.cli import main\n"
        "for task in ('report', 'watch'): assert main([task, sys.argv[1], '--dry-run']) == 0\n"
        "assert not {'torch', 'timm', 'matplotlib', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, run], check=True, timeout=120)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before
