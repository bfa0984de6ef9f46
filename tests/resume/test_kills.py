"""Killed at random moments and started again with the same command: the same run, to the bit."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import savers
import torch
from safetensors.torch import load_file
from trials import EVERY, STEPS, Server, assert_same_run, command, left_over, losses

from openmae.engine import checkpoint


def _lost(out: Path) -> int:
    """Steps that a killed run logged and no checkpoint holds."""
    logged = [step for step, _, _ in losses(out)]
    found, notices = checkpoint.latest(out / "checkpoints")
    assert notices == [], "a kill left a damaged checkpoint"
    at = found.step if found else 0
    return max(logged, default=0) - at


def _kill_until(trials: Server, whole: Path, tmp_path: Path, kills: int, seed: int) -> dict:
    """Runs that are killed at random moments until so many kills have hit; each is finished."""
    begin = time.perf_counter()
    assert trials.run(command(tmp_path / "timed")).code == 0
    span = time.perf_counter() - begin
    draw = random.Random(seed)
    count = {"kills": 0, "runs": 0, "with_checkpoint": 0, "most_lost": 0}
    while count["kills"] < kills:
        out = tmp_path / f"run-{count['runs']}"
        ended = trials.kill_after(command(out), draw.uniform(0.0, span))
        while ended.code == -9:
            count["kills"] += 1
            count["most_lost"] = max(count["most_lost"], _lost(out))
            count["with_checkpoint"] += (out / "checkpoints").is_dir()
            delay = draw.uniform(0.0, span) if count["kills"] < kills else 600.0
            argv = command(out)
            ended = trials.kill_after(argv, delay) if delay < 600 else trials.run(argv)
        assert ended.code == 0, ended.text
        assert_same_run(out, whole)
        count["runs"] += 1
        assert count["runs"] <= 20 + 20 * kills, f"only {count['kills']} kills hit"
    return count


def _check_kills(count: dict, kills: int) -> None:
    print(count)
    assert count["kills"] == kills
    assert count["with_checkpoint"] > 0, "no kill hit a run that had saved"
    assert count["most_lost"] <= EVERY


def test_killed_at_random_moments(trials: Server, whole: Path, tmp_path: Path) -> None:
    _check_kills(_kill_until(trials, whole, tmp_path, 6, seed=1), 6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_a_hundred_times(trials: Server, whole: Path, tmp_path: Path) -> None:
    _check_kills(_kill_until(trials, whole, tmp_path, 100, seed=2), 100)


@pytest.mark.parametrize("step", [1, 3, 4, STEPS])
def test_killed_after_a_step(trials: Server, whole: Path, tmp_path: Path, step: int) -> None:
    """At moments that a clock rarely hits: the first step, before a save, after one, the end."""
    out = tmp_path / "run"
    ended = trials.run(command(out), at_step=step, act={"signal": "SIGKILL"})
    assert ended.code == -9, ended.text
    found, _ = checkpoint.latest(out / "checkpoints")
    assert (found.step if found else 0) == (step - 1) // EVERY * EVERY
    assert trials.run(command(out)).code == 0
    assert_same_run(out, whole)


def test_killed_before_it_was_a_run(trials: Server, whole: Path, tmp_path: Path) -> None:
    """A start that was killed while it wrote its first files is no foreign folder."""
    out = tmp_path / "run"
    out.mkdir()
    for name in (".lock", "environment.json", "data_files.txt", ".tmp-status.json", "status.json"):
        (out / name).write_text("")
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    assert_same_run(out, whole)


def test_killed_between_results_and_status(trials: Server, whole: Path, tmp_path: Path) -> None:
    """A run whose last checkpoint is there but whose end was cut off is finished, not left so."""
    out = tmp_path / "run"
    assert trials.run(command(out)).code == 0
    (out / "encoder.safetensors").unlink()
    text = (out / "status.json").read_text()
    (out / "status.json").write_text(text.replace('"done"', '"running"'))
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    assert "Continue" in ended.text
    assert_same_run(out, whole)


def _kill_saves(trials: Server, folder: Path, kills: int, seed: int) -> dict:
    draw, count = random.Random(seed), {"saved": 0, "temporary": 0}
    before = 0
    for kill in range(kills):
        started = trials.start([], save_in_a_loop=str(folder))
        until = time.monotonic() + 60
        while before == 0 and not list(folder.glob("step_*")):  # once: a checkpoint to lose
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(draw.uniform(0.03, 0.3))

        os.kill(started[0], signal.SIGKILL)
        ended = trials.wait(started)
        assert ended.code == -9, ended.text
        found, notices = checkpoint.latest(folder)
        assert notices == [], f"kill {kill}: {notices}"
        assert found is not None, f"kill {kill}: no checkpoint is left"
        assert found.step >= before, f"kill {kill}: back from step {before} to {found.step}"
        for tensor in load_file(found.path / "weights.safetensors").values():
            assert torch.equal(tensor, torch.full_like(tensor, found.step))
        count["saved"] += found.step > before
        count["temporary"] += bool(left_over(folder))
        before = found.step
    return count


def _check_saves(count: dict, folder: Path) -> None:
    print(count)
    assert count["saved"] > 0, "nothing was saved between the kills"
    assert count["temporary"] > 0, "no kill hit a save"
    checkpoint.clean(folder)
    assert left_over(folder) == []
    found, _ = checkpoint.latest(folder)
    assert found is not None
    method, optimizer, ema = savers.parts(0.5)
    checkpoint.restore(found, method, optimizer, ema)
    assert float(next(method.parameters()).detach().flatten()[0]) == found.step


def test_killed_inside_a_save(trials: Server, tmp_path: Path) -> None:
    _check_saves(_kill_saves(trials, tmp_path / "saves", 10, seed=3), tmp_path / "saves")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_a_hundred_times_inside_a_save(trials: Server, tmp_path: Path) -> None:
    _check_saves(_kill_saves(trials, tmp_path / "saves", 100, seed=4), tmp_path / "saves")
