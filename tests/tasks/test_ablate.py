"""`openmae ablate` on tiny runs: the table is what the runs say, and nothing runs twice."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from gridhere import here  # noqa: F401  (a fixture)

from openmae.cli import main
from openmae.config.ablate import AblateConfig
from openmae.errors import DivergedError, StorageError
from openmae.tasks import ablate, gridcell


def words(classes, out, tiny, *more):
    return [str(w) for w in ("ablate", classes, "--out", out, *tiny, "--score", "knn", *more)]


def read(out):
    return json.loads((out / "ablation.json").read_text())


def test_the_table_is_what_the_runs_say(here, classes, tiny, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "grid"
    own = words(classes, out, tiny, "--recipe", "laptop", "--steps", 2, "--seeds", 2)
    assert main([*own, "--vary", "mask_ratio=0.5,0.75", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert len(here.ran) == 4
    table = read(out)
    for row in table["rows"]:
        values = []
        for name in row["cells"].values():
            cell = out / "cells" / name
            assert not (cell / "run" / "checkpoints").exists()
            (found,) = cell.glob("scores/knn-*/results.json")
            values.append(json.loads(found.read_text())["knn_accuracy"])
        assert row["scores"]["knn"]["values"] == values
        assert row["scores"]["knn"]["mean"] == pytest.approx(statistics.fmean(values))
        assert row["images_seen"] == 8
        assert row["gflop_per_image"] > 0
    assert {line["name"] for line in table["baselines"]} == {
        "random weights", "raw pixels", "majority",
    }  # fmt: skip
    assert table["unfinished"] == []
    assert "dim" in table["base"]  # but not what the rows vary, nor what every grid has
    assert not table["base"].keys() & {"mask_ratio", "eval_every"}
    assert "random weights" in said
    assert "pretraining saw all images" in said
    assert f"{100 * table['rows'][0]['scores']['knn']['mean']:.1f}" in said
    with (out / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["mask_ratio"] for r in rows] == ["0.5", "0.75"]
    assert float(rows[0]["mean"]) == table["rows"][0]["scores"]["knn"]["mean"]
    html = (out / "ablation.html").read_text()
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("data:image/png;base64,") == 1

    here.ran.clear()  # the same command again, a longer grid, another score
    assert main([*own, "--vary", "mask_ratio=0.5,0.75"]) == 0
    assert here.ran == []
    assert main([*own, "--vary", "mask_ratio=0.5,0.75,0.9"]) == 0
    assert len(here.ran) == 2
    here.ran.clear()
    steps = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/run/metrics.jsonl")}
    assert main([*own[:-1], "2", "--vary", "mask_ratio=0.5", "--score-args", "knn.k=3"]) == 0
    assert len(here.ran) == 2
    assert all(p.stat().st_mtime_ns == before for p, before in steps.items())
    assert read(out)["rows"][0]["scores"]["knn"]["test"]["settings"] == {"k": "3"}


def test_all_rows_share_what_was_chosen_for_them_a_setting_without_a_value_too():
    base = {"data": "x", "clip": None, "eval_every": 1e9, "dim": 4, "mask_ratio": 0.5}
    rows = [
        SimpleNamespace(settings=SimpleNamespace(**{**base, "mask_ratio": r}, target="pixels"))
        for r in (0.5, 0.75)
    ]
    for row in rows:
        row.budget = "2 steps"
    config = AblateConfig(data="x", vary=["mask_ratio=0.5,0.75"], score=["knn"])
    grid = SimpleNamespace(rows=rows)
    assert ablate._about(config, None, base, grid)["base"] == {"clip": None, "dim": 4}
    typed = {**base, "eval_every": 2.0}
    for row in rows:
        row.settings.eval_every = 2.0
    found = ablate._about(config, None, typed, grid)["base"]
    assert found == {"clip": None, "dim": 4, "eval_every": 2.0}


def test_what_is_not_finished_is_listed_and_never_filled(
    here, classes, tiny, tmp_path, capsys  # noqa: F811
):  # fmt: skip
    out = tmp_path / "grid"
    own = words(classes, out, tiny, "--steps", 2, "--seeds", 2, "--vary", "mask_ratio=0.5,0.75,0.9")
    here.errors = {"0.75-s1": StorageError("no space"), "0.9": DivergedError("not finite")}
    assert main(own) == 0
    said = capsys.readouterr().out
    table = read(out)
    assert [(row["n"], row["planned"]) for row in table["rows"]] == [(2, 2), (1, 2), (0, 2)]
    assert "knn" not in table["rows"][2]["scores"]
    assert len(table["rows"][1]["scores"]["knn"]["values"]) == 1
    assert [(u["state"], u["reason"]) for u in table["unfinished"]] == [
        ("failed", "no space"), ("diverged", "not finite"), ("diverged", "not finite"),
    ]  # fmt: skip
    assert "Not finished: 3 runs, left out of the means above" in said
    assert "(n=1 of 2)" in said
    assert "diverged" in said
    here.errors, here.ran[:] = {}, []
    assert main(own) == 0
    assert [name[:7] for name in here.ran] == ["0.75-s1"]  # what diverged would do so again


def test_the_first_run_of_all_that_fails_ends_the_grid(here, classes, tiny, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "grid"
    here.errors = {"0": StorageError("no space")}
    assert main(words(classes, out, tiny, "--steps", 2, "--vary", "mask_ratio=0.5,0.75")) == 4
    assert len(here.ran) == 1
    assert "the first run failed: no space" in capsys.readouterr().err


def test_minutes_are_measured_once_for_all_seeds(here, classes, tiny, tmp_path, monkeypatch):  # noqa: F811
    measured = []

    def speed(config, recipe, seconds):
        measured.append(config.mask_ratio)
        return 12.0 if config.mask_ratio == 0.5 else 16.0

    monkeypatch.setattr(gridcell, "speed_of", speed)
    out = tmp_path / "grid"
    own = words(classes, out, tiny, "--budget", "minutes=0.02", "--vary", "mask_ratio=0.5,0.75")
    assert main([*own, "--seeds", "2"]) == 0
    assert main([*own, "--seeds", "3"]) == 0
    assert measured == [0.5, 0.75]
    cells = [json.loads(p.read_text()) for p in out.glob("cells/*/cell.json")]
    assert sorted(c["steps"] for c in cells) == [3, 3, 3, 4, 4, 4]  # 0.02 x 60 x 12 / 4


def test_speed_is_that_of_a_short_run(classes, tiny, tmp_path, monkeypatch):
    from openmae.config.base import resolve
    from openmae.config.pretrain import PretrainConfig

    monkeypatch.setattr(gridcell, "_SHORTEST", 0.5)
    given = {w.removeprefix("--").replace("-", "_"): v for w, v in zip(tiny[::2], tiny[1::2])}  # noqa: B905
    config = resolve(PretrainConfig, {"data": str(classes), **given})
    assert gridcell.speed_of(config, "none", 0.5) > 4


def test_a_dry_run_prints_the_grid_and_writes_nothing(here, classes, tiny, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "grid"
    own = words(classes, out, tiny, "--steps", 2, "--vary", "mask_ratio=0.5,0.75", "--dry-run")
    assert main(own) == 0
    said = capsys.readouterr().out
    assert "2 rows, 6 runs, 0 of them done" in said
    assert "Time" in said
    assert not out.exists()
    assert here.ran == []


def test_a_folder_of_another_kind_is_refused(here, trained, classes, tiny, capsys):  # noqa: F811
    own = words(classes, trained, tiny, "--steps", 2, "--vary", "mask_ratio=0.5,0.75")
    assert main(own) == 4
    assert "is a run of `openmae pretrain`" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_9_and_the_same_command(classes, tiny, tmp_path):
    out = tmp_path / "grid"
    own = words(classes, out, tiny, "--steps", 300, "--save-every", 10, "--seeds", 2)
    command = [sys.executable, "-m", "openmae", *own, "--vary", "mask_ratio=0.5,0.75"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120

    def saved():
        return any(out.glob("cells/*/run/checkpoints/step_*")) and any(
            out.glob("cells/*/cell.json")
        )

    while not saved():
        assert time.monotonic() < until
        assert first.poll() is None
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done = {p: p.read_bytes() for p in out.glob("cells/*/cell.json")}
    assert 1 <= len(done) < 4
    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    assert f"{len(done)} of them are done" in again.stdout
    assert all(p.read_bytes() == before for p, before in done.items())
    assert [row["n"] for row in read(out)["rows"]] == [2, 2]
    logs = "".join(p.read_text() for p in out.glob("cells/*/log.txt"))
    assert logs.count("Continue") == 1  # where its checkpoint was


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stop_saves_what_goes_on(classes, tiny, tmp_path):
    out = tmp_path / "grid"
    own = words(classes, out, tiny, "--steps", 5000, "--save-every", 100, "--seeds", 1, "--jobs", 2)
    command = [sys.executable, "-m", "openmae", *own, "--vary", "mask_ratio=0.5,0.75,0.9"]
    grid = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while len({p.parent for p in out.glob("cells/*/run/checkpoints/step_*")}) < 2:
        assert time.monotonic() < until
        assert grid.poll() is None
        time.sleep(0.05)
    grid.terminate()
    said, _ = grid.communicate(timeout=60)
    assert grid.returncode == 75
    table = read(out)
    assert [u["state"] for u in table["unfinished"]] == ["stopped", "stopped", "waiting"]
    assert "asked to stop, saved at step" in table["unfinished"][0]["reason"]
    assert "The same command again does the rest" in said
