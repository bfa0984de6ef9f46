"""Asked to stop, in every way there is, and started again with the same command: the same run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from trials import (
    STEPS,
    Server,
    assert_same_run,
    checkpoints,
    command,
    final,
    left_over,
    losses,
    status,
)

AT = 7  # not a step at which the run saves by itself


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP", "STOP file"])
def test_stops_saves_and_continues(trials: Server, whole: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    act = {"touch": str(out / "STOP")} if name == "STOP file" else {"signal": name}
    ended = trials.run(command(out), at_step=AT, act=act)
    assert ended.code == 75, ended.text
    assert f"{name}: saved step {AT} of {STEPS}" in ended.text
    found = status(out)
    assert (found["state"], found["step"], found["reason"]) == ("stopped", AT, name)
    assert (found["exit_code"], found["resumable"]) == (75, True)
    assert f"step_{AT:08d}" in checkpoints(out)
    assert left_over(out) == []
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    assert f"at step {AT} of {STEPS}" in ended.text
    _same_but_one_more_checkpoint(out, whole)


def _same_but_one_more_checkpoint(out: Path, whole: Path) -> None:
    assert final(out) == final(whole)
    assert losses(out) == losses(whole)
    assert left_over(out) == []
    assert status(out)["state"] == "done"


def test_a_time_limit_stops(trials: Server, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = trials.run(command(out, time_limit="1s"), seconds=0.0)
    assert ended.code == 75, ended.text
    assert "nothing to save yet" in ended.text
    assert checkpoints(out) == []
    stops, limit = 1, 0.1
    while ended.code == 75:
        ended = trials.run(command(out, time_limit="1s"), seconds=limit)
        stops, limit = stops + (ended.code == 75), limit + 0.05
        if ended.code == 75:
            assert status(out)["reason"] == "time limit"
    assert ended.code == 0, ended.text
    print(f"{stops} stops")
    _same_but_one_more_checkpoint(out, whole)


def test_stopped_again_and_again(trials: Server, whole: Path, tmp_path: Path) -> None:
    """A stop at each of many steps, one run: nothing adds up."""
    out = tmp_path / "run"
    for step in (1, 2, 9, 10, 23):
        ended = trials.run(command(out), at_step=step, act={"signal": "SIGTERM"})
        assert ended.code == 75, ended.text
        assert status(out)["step"] == step
    assert trials.run(command(out)).code == 0
    _same_but_one_more_checkpoint(out, whole)


def test_a_stop_at_the_last_step_is_an_end(trials: Server, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = trials.run(command(out), at_step=STEPS, act={"signal": "SIGTERM"})
    assert ended.code == 0, ended.text
    assert_same_run(out, whole)


def _contents(out: Path) -> dict[str, tuple[int, bytes]]:
    files = [p for p in out.rglob("*") if p.is_file()]
    return {str(p.relative_to(out)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_a_finished_run_says_so_and_changes_nothing(
    trials: Server, whole: Path, tmp_path: Path
) -> None:
    before = _contents(whole)
    assert len(before) > 10
    ended = trials.run(command(whole))
    assert ended.code == 0, ended.text
    assert f"finished at step {STEPS}" in ended.text
    assert f"--steps {2 * STEPS} --allow-change steps" in ended.text
    assert _contents(whole) == before


def test_a_finished_run_without_its_checkpoints_is_finished(trials: Server, tmp_path: Path) -> None:
    """Checkpoints are large: who removes them after the end must not train again by accident."""
    out = tmp_path / "run"
    assert trials.run(command(out)).code == 0
    for path in (out / "checkpoints").rglob("*"):
        if path.is_file():
            path.unlink()
    for path in (out / "checkpoints").iterdir():
        path.rmdir()
    before = _contents(out)
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    assert f"finished at step {STEPS}" in ended.text
    assert _contents(out) == before


def test_looking_at_the_run_does_not_disturb_it(
    trials: Server, whole: Path, tmp_path: Path
) -> None:
    """Held-out loss, k-NN and pictures on the way: same weights; none is lost to a kill."""
    more: dict[str, Any] = {"val": "digits", "knn": True, "eval_every": 0.04}
    out, broken = tmp_path / "run", tmp_path / "broken"
    assert trials.run(command(out, **more)).code == 0
    assert final(out) == final(whole)
    for step in (3, 6, 8):
        ended = trials.run(command(broken, **more), at_step=step, act={"signal": "SIGKILL"})
        assert ended.code == -9, ended.text
    assert trials.run(command(broken, **more)).code == 0
    assert final(broken) == final(whole)
    first, second = (_evaluations(p) for p in (out, broken))
    assert len(first) >= 5
    assert first == second


def _evaluations(out: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["val_loss"], r["knn_accuracy"]) for r in rows if "val_loss" in r]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_group_of_two_workers(
    trials: Server, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """As a batch system and a terminal send it; then on without workers: the same bits."""
    out = tmp_path / "run"
    act = {"signal": number.name, "group": True}
    ended = trials.run(command(out, workers=2), at_step=AT, act=act)
    assert ended.code == 75, ended.text
    assert "exited unexpectedly" not in ended.text
    assert "Traceback" not in ended.text
    assert status(out)["step"] == AT
    ended = trials.run(command(out, workers=0), at_step=AT + 4, act=act)
    assert ended.code == 75, ended.text
    ended = trials.run(command(out, workers=2))
    assert ended.code == 0, ended.text
    _same_but_one_more_checkpoint(out, whole)


def test_a_real_command_stopped_by_its_group(tmp_path: Path) -> None:
    """`python -m openmae` with two workers: exit 75, no traceback, nothing alive afterwards."""
    out, log = tmp_path / "run", tmp_path / "log"
    words = [sys.executable, "-m", "openmae", *command(out, steps=100_000, workers=2)]
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True)
        until = time.monotonic() + 120
        while len(losses(out)) < 5:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 75, log.read_text()
    text = log.read_text()
    assert "SIGTERM: saved step" in text
    assert "exited unexpectedly" not in text
    assert "Traceback" not in text
    assert status(out)["exit_code"] == 75
    with pytest.raises(ProcessLookupError):
        _wait_for_the_group(process.pid)


def _wait_for_the_group(group: int) -> None:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        os.killpg(group, 0)  # raises when the last one is gone
        time.sleep(0.05)
