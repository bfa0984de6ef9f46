"""metrics.jsonl as columns: exact against json, quick, few bytes drawn, read on when it grows."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from run_folders import jsonl, row, run_folder

from openmae.cli import main
from openmae.report.chart import limits, number, ticks
from openmae.report.curves import panels_of, thin
from openmae.report.metricsfile import Metrics


def logged(count: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(1, count + 1):
        loss = None if step % 97 == 0 else float(rng.normal())
        rows.append(row(step, loss=loss, skipped=int(loss is None)))
        if step % 50 == 0:
            rows.append({"step": step, "val_loss": float(rng.normal())})
    return rows


def test_columns_are_those_of_json(tmp_path):
    rows = logged(12_000)  # more than one block
    jsonl(tmp_path / "m", rows)
    metrics = Metrics(tmp_path / "m")
    assert (metrics.lines, metrics.torn, metrics.step, metrics.cut) == (len(rows), 0, 12_000, False)
    for name in ("loss", "val_loss", "lr", "skipped"):
        own = [(r["step"], r[name]) for r in rows if name in r]
        assert metrics.steps(name).tolist() == [step for step, _ in own]
        values = np.array([np.nan if v is None else v for _, v in own])
        np.testing.assert_array_equal(metrics.values(name), values)
    assert metrics.last("loss") == rows[-2]["loss"]


def test_a_growing_file_is_read_on(tmp_path):
    path = tmp_path / "m"
    rows = logged(300)
    whole = "".join(json.dumps(r) + "\n" for r in rows)
    metrics = Metrics(path)
    assert metrics.lines == 0
    for end in (0, 1, 57, 400, 401, 5000, 20_000, len(whole)):
        path.write_text("")  # the same file
        with path.open("r+") as file:
            file.write(whole[:end])
        metrics.update()
        assert metrics.lines == whole[:end].count("\n")
        assert metrics.cut == (end > 0 and whole[end - 1] != "\n")
    assert not metrics.update()
    other = tmp_path / "other"
    jsonl(other, rows[:5])
    other.replace(path)  # as a continued run trims it
    assert metrics.update()
    assert metrics.lines == 5
    path.unlink()
    assert metrics.update()
    assert metrics.names == []


def test_hours_are_images_over_rates(tmp_path):
    jsonl(tmp_path / "m", [row(10), row(30, images_per_s=64.0), row(40, images_per_s=0.0)])
    metrics = Metrics(tmp_path / "m")
    assert metrics.seconds()[1].tolist() == [1.0, 21.0, 21.0]
    np.testing.assert_allclose(metrics.along("hours", np.array([20.0])), [11 / 3600])
    assert metrics.along("images", np.array([20.0])).tolist() == [1280.0]


def test_buckets_keep_least_and_most():
    x, y = np.arange(1.0, 50_001), np.random.default_rng(0).normal(size=50_000)
    y[31_234], y[7] = 99.0, np.nan
    line = thin("loss", x, y)
    assert len(line.x) <= 320
    assert line.of == 50_000
    assert np.nanmax(line.high) == 99.0
    assert np.nanmin(line.low) == np.nanmin(y)
    weights = np.diff(np.flatnonzero(np.diff((x - 1) // (49_999 / 320), prepend=-1)), append=50_000)
    assert abs(np.average(line.y[:320], weights=weights[: len(line.y)]) - np.nanmean(y)) < 1e-3
    short = thin("loss", x[:600], y[:600])
    np.testing.assert_array_equal(short.y, y[:600])


def test_panels_take_every_column_once(tmp_path):
    rows = [row(i, loss_box=1.0, effective_rank=float(i)) for i in range(1, 9)]
    jsonl(tmp_path / "m", [*rows, {"step": 8, "test_mIoU": 0.5, "test_loss": 1.0}])
    found = {p.name: p for p in panels_of(Metrics(tmp_path / "m"), "steps")}
    assert list(found) == ["loss", "scores", "terms", "lr", "grad_norm", "images_per_s",
                           "data_share", "effective_rank"]  # fmt: skip
    assert [line.label for line in found["loss"].lines] == ["training", "test, not augmented"]
    assert found["scores"].lines[0].y.tolist() == [50.0]  # percent


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(0, 1, False), (-3, 8e5, False), (1e-9, 2e-9, False), (5, 5.0001, False), (1e-4, 10, True),
     (0.5, 0.7, True), (3, 3e30, True), (0, 1e99, False)],
)  # fmt: skip
def test_ticks_are_round_few_and_inside(low, high, log):
    found = ticks(low, high, 5, log)
    assert 2 <= len(found) <= 12
    assert all(low <= t <= high * (1 + 1e-9) for t in found)
    assert all(len(number(t)) <= 9 for t in found)


def test_limits_hold_their_values():
    for ends in ((0.0, 0.0), (1.0, 1.0), (-2.0, 5.0), (1e-3, 1e3)):
        for zero in (True, False):
            low, high = limits(*ends, False, zero)
            assert low <= ends[0]
            assert ends[1] <= high
            assert low < high


@pytest.mark.parametrize("lines", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_long_run_makes_a_small_page_quickly(tmp_path, lines):
    run = run_folder(tmp_path / "run")
    rng = np.random.default_rng(0)
    noise = rng.random(1000)
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, lines + 1):
            told = row(step, loss=1 + float(noise[step % 1000]), feature_spread=0.123456789)
            file.write(json.dumps(told) + "\n")
    begun = time.process_time()
    assert main(["report", str(run)]) == 0
    assert time.process_time() - begun < 5 * lines / 1e6 + 1
    assert (run / "report.html").stat().st_size < 1_000_000
    assert "least 1, most 2" in (run / "report.html").read_text()
