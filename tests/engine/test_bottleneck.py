"""A run that waits for its data says so, once, after some windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parts import batches, plan, run_folder, state

from openmae.engine.loop import train
from openmae.engine.signals import StopRequest


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def _said(path: Path, capsys: Any, clock: list[float], waits: Any, **more: Any) -> str:
    """What a run says whose batch of step n takes waits(n) seconds and whose step takes one."""

    def slow() -> Any:
        for number, one in enumerate(batches()):
            clock[0] += waits(number)
            yield one

    made = state()
    real = made.optimizer.step

    def step() -> None:
        clock[0] += 1.0
        real()

    made.optimizer.step = step  # type: ignore[method-assign]
    settings = {"total": 40, "log_every": 4, "save_every": 100, **more}
    with StopRequest() as stop:
        train(made, slow(), plan(**settings), run_folder(path), stop)
    return capsys.readouterr().err


def test_it_is_said_once_with_advice(tmp_path: Path, capsys: Any, clock: list[float]) -> None:
    said = _said(tmp_path, capsys, clock, lambda _: 3.0, advice="--workers 4, or openmae pack")
    text = "the loader is the limit: 75% of the time waits for data; --workers 4, or openmae pack"
    assert said.splitlines() == [f"openmae: {text}"]


def test_not_below_a_fifth_of_the_time(tmp_path: Path, capsys: Any, clock: list[float]) -> None:
    assert _said(tmp_path, capsys, clock, lambda _: 0.24) == ""
    assert "21% of the time" in _said(tmp_path / "more", capsys, clock, lambda _: 0.26)


def test_the_first_batches_do_not_count(tmp_path: Path, capsys: Any, clock: list[float]) -> None:
    assert _said(tmp_path, capsys, clock, lambda n: 50.0 if n < 8 else 0.0) == ""


def test_a_quick_run_is_left_alone(tmp_path: Path, capsys: Any, clock: list[float]) -> None:
    assert _said(tmp_path, capsys, clock, lambda _: 1.0, total=9, log_every=3) == ""


def test_one_window_in_between_begins_anew(tmp_path: Path, capsys: Any, clock: list[float]) -> None:
    assert _said(tmp_path, capsys, clock, lambda n: 5.0 * (n // 4 % 3 != 0)) == ""
