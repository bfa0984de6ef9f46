"""What is read, logged and watched for; and that the device is read no more often than asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parts import ROWS, batch, batches, plan, run_folder, state
from torch import Tensor

from openmae.engine import checkpoint
from openmae.engine.log import Progress
from openmae.engine.loop import State, train
from openmae.engine.monitor import Monitor
from openmae.engine.runfolder import RunFolder, read_jsonl
from openmae.engine.signals import StopRequest
from openmae.errors import DataError, DivergedError


def _train(
    run: RunFolder, poisoned: frozenset[int] = frozenset(), stream: Any = None, **more: Any
) -> State:
    made = state()
    with StopRequest() as stop:
        train(made, stream or batches(0, poisoned), plan(**more), run, stop)
    return made


def test_a_skipped_step_names_its_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path)
    made = _train(run, frozenset({1, 6}), log_every=4)
    assert made.step == 12
    rows = read_jsonl(run.path / "anomalies.jsonl")
    assert [(r["step"], r["what"], r["samples"]) for r in rows] == [
        (1, "Loss", ["1/2.png"]),
        (6, "Loss", ["6/2.png"]),
    ]
    assert rows[0]["batch"] == [f"1/{row}.png" for row in range(ROWS)]
    logged = read_jsonl(run.metrics)
    assert [(r["step"], r["skipped"]) for r in logged] == [(4, 1), (8, 1), (12, 0)]
    assert all(0 < r["loss"] < 100 for r in logged)
    said = capsys.readouterr().err
    assert "Loss not finite at step 1 on 1/2.png. Step skipped (1 of 10)" in said
    assert said.count("(1 of 10)") == 2  # a finite step in between starts the count anew


def test_a_window_without_a_finite_step(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    _train(run, frozenset({2, 3}), log_every=2)
    text = run.metrics.read_text()
    assert "NaN" not in text
    row = json.loads(text.splitlines()[1])
    assert (row["loss"], row["grad_norm"], row["skipped"]) == (None, None, 2)


@pytest.mark.parametrize("log_every", [1, 5])
def test_too_many_in_a_row_is_divergence(tmp_path: Path, log_every: int) -> None:
    run = run_folder(tmp_path)
    poisoned = frozenset({2, 5, 6, 7, 8, 9, 10, 11})
    with pytest.raises(DivergedError) as caught:
        _train(run, poisoned, log_every=log_every, save_every=5, max_skips=3)
    assert caught.value.exit_code == 6
    text = str(caught.value)
    assert "3 steps in a row" in text
    assert "learning rate" in text
    assert "--lr" in text
    assert "warm-up" in text
    assert "--clip" in text
    assert "anomalies.jsonl" in text
    assert len(text.splitlines()) <= 4
    assert [r["step"] for r in read_jsonl(run.path / "anomalies.jsonl")] == [2, 5, 6, 7]
    found, _ = checkpoint.latest(run.checkpoints)
    assert found is not None
    assert found.step > 7  # the last finished step is saved, with finite weights


def test_skips_do_not_add_up_over_finite_steps(tmp_path: Path) -> None:
    made = _train(run_folder(tmp_path), frozenset({1, 2, 4, 5, 7, 8, 10, 11}), max_skips=3)
    assert made.step == 12


def _with_bad(share: float) -> Any:
    """Batches in which a share of the images, evenly spread, could not be read."""
    seen = bad = 0
    for one in batches():
        for _ in range(ROWS):
            seen += 1
            if bad < share * seen - 1e-9 and bad + 1 <= share * seen + 1e-9:
                bad += 1
                one["bad"].append((f"broken-{bad}.jpg", "truncated"))
        yield one | {"path": [f"{row}.png" for row in range(ROWS)]}


def test_more_than_five_percent_unreadable(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    with pytest.raises(DataError, match=r"broken-1\.jpg: truncated") as caught:
        _train(run, stream=_with_bad(0.06), total=400, save_every=400)
    assert caught.value.exit_code == 3
    assert "bad_files.jsonl" in str(caught.value)
    seen = int(str(caught.value).split(" of ")[1].split()[0].replace(",", ""))
    assert 1000 <= seen <= 1100


def test_less_than_that_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(tmp_path)
    made = _train(run, stream=_with_bad(0.04), total=200, save_every=200, log_every=50)
    assert made.step == 200
    rows = read_jsonl(run.metrics)
    assert rows[-1]["bad_images"] == 64
    listed = read_jsonl(run.path / "bad_files.jsonl")
    assert len(listed) == 64
    assert listed[0] == {"path": "broken-1.jpg", "reason": "truncated"}
    assert capsys.readouterr().err.count("broken") == 1


def test_what_a_row_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is what the clock says between reads; the data share is the part spent in waiting."""
    clock = [100.0]
    monkeypatch.setattr("openmae.engine.monitor.time.perf_counter", lambda: clock[0])
    run = run_folder(tmp_path)
    with Progress(12) as progress:
        monitor = Monitor(plan(), run, progress, None)
        values = {
            "loss": torch.tensor(2.0), "grad_norm": torch.tensor(0.5),
            "skipped": torch.tensor(0.0), "sample_loss": torch.ones(ROWS),
        }  # fmt: skip
        for step in range(4):
            monitor.add(step, batch(step), values)
        monitor.waited = 0.5
        clock[0] += 2.0
        monitor.read(4)
        monitor.read(4)  # nothing new: no row
    (row,) = read_jsonl(run.metrics)
    assert (row["step"], row["images"], row["epoch"]) == (4, 4 * ROWS, 4 * ROWS / 100)
    assert (row["loss"], row["grad_norm"], row["skipped"]) == (2.0, 0.5, 0)
    assert row["images_per_s"] == pytest.approx(4 * ROWS / 2.0)
    assert row["data_share"] == pytest.approx(0.25)
    assert row["lr"] == plan().schedule(3)


def test_waiting_for_data_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def slow() -> Any:
        for one in batches():
            clock[0] += 3.0
            yield one

    run = run_folder(tmp_path)
    _train(run, stream=slow(), log_every=4)
    rows = read_jsonl(run.metrics)
    assert len(rows) == 3
    assert all(r["data_share"] == pytest.approx(1.0) for r in rows)
    assert all(r["images_per_s"] == pytest.approx(ROWS / 3) for r in rows)


READS = ("tolist", "item", "__float__", "__bool__", "__int__", "numpy", "cpu", "nonzero")


@pytest.mark.parametrize("log_every", [1, 4, 7])
def test_the_device_is_read_only_to_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    total, reads = 28, list[str]()

    def counting(name: str) -> Any:
        real = getattr(Tensor, name)

        def read(self: Tensor, *args: Any, **more: Any) -> Any:
            reads.append(name)
            return real(self, *args, **more)

        return read

    for name in READS:
        monkeypatch.setattr(Tensor, name, counting(name))
    monkeypatch.setattr(checkpoint, "save", lambda *_: None)
    torch.ones(1).item()
    assert reads == ["item"], "the count does not count"
    reads.clear()
    stream = iter([batch(step) for step in range(total)])
    reads.clear()
    _train(run_folder(tmp_path), stream=stream, total=total, log_every=log_every, save_every=1000)
    assert reads == ["tolist"] * (total // log_every)
