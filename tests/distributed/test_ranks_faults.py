"""What happens to a run of two ranks when one of them has a fault."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from fleet import Fleet, run
from trials import Server, checkpoints, command, losses, status


def ended_codes(ended) -> list[int]:
    return [one.code for one in ended]


@pytest.mark.parametrize("number", ["SIGTERM", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_a_stop_signal_to_one_rank_stops_all_at_one_step(trials: Server, tmp_path: Path, number):
    """F15."""
    out = tmp_path / "run"
    hook = {1: {"at_step": 5, "act": {"signal": number}}}
    ended = run(trials, command(out), 2, hooks=hook)
    assert ended_codes(ended) == [75, 75], ended[0].text
    found = status(out)
    assert (found["step"], found["reason"], found["exit_code"]) == (5, number, 75)
    assert checkpoints(out)[-1] == "step_00000005"


def test_a_rank_that_is_killed_ends_the_other_at_once(trials: Server, tmp_path: Path):
    """F18: the launcher's part, starting again, is in the launcher's tests."""
    out = tmp_path / "run"
    hook = {1: {"at_step": 5, "act": {"signal": "SIGKILL"}}}
    fleet = Fleet(trials, command(out), 2, hooks=hook)
    start = time.monotonic()
    ended = fleet.wait()
    assert ended_codes(ended) == [1, -9]
    assert time.monotonic() - start < 20
    assert "Traceback" not in ended[0].text
    assert checkpoints(out)[-1] == "step_00000003"  # whole, the last one before
    again = run(trials, command(out), 2)
    assert ended_codes(again) == [0, 0]


def test_a_rank_that_hangs_is_named(trials: Server, tmp_path: Path):
    """F19: stopped dead, so that not even its watchdog answers."""
    out = tmp_path / "run"
    hook = {1: {"at_step": 5, "act": {"signal": "SIGSTOP"}}}
    fleet = Fleet(trials, command(out, rank_timeout="2s"), 2, hooks=hook)
    first = trials.wait(fleet.started[0])
    fleet.kill(1)
    trials.wait(fleet.started[1])
    assert first.code == 1
    assert "rank 1 does not answer; rank 0 waits reading the values after step 5" in first.text


def test_ranks_with_other_settings_are_refused(trials: Server, tmp_path: Path):
    """F21."""
    out = tmp_path / "run"
    ended = run(trials, [command(out), command(out, lr=0.3)], 2)
    assert ended_codes(ended) == [3, 3]
    assert "ranks differ in their settings: rank 1 has" in ended[0].text
    assert "ranks differ" not in ended[1].text  # said once
    assert not out.exists()


@pytest.mark.slow
def test_ranks_with_other_data_are_refused(trials: Server, tmp_path: Path):
    """F21."""
    import numpy as np

    for name, count in (("here", 40), ("there", 41)):
        noise = np.random.default_rng(0).integers(0, 255, (count, 8, 8), dtype=np.uint8)
        np.save(tmp_path / f"{name}.npy", noise)
    out = tmp_path / "run"
    words = [command(out, str(tmp_path / f"{name}.npy")) for name in ("here", "there")]
    ended = run(trials, words, 2)
    assert ended_codes(ended) == [3, 3]
    assert "ranks differ in their data" in ended[0].text
    assert not out.exists()


def test_a_batch_that_does_not_divide_names_what_works(trials: Server, tmp_path: Path):
    """F22."""
    out = tmp_path / "run"
    ended = run(trials, command(out), 3)
    assert ended_codes(ended) == [2, 2, 2]
    assert "--batch-size 16 does not give each of 3 ranks an equal part" in ended[0].text
    assert "Ranks that work: 1, 2, 4, 8, 16" in ended[0].text
    assert not out.exists()


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_on_every_rank(trials: Server, tmp_path: Path):
    """F33."""
    out = tmp_path / "run"
    hook = {0: {"at_step": 5, "act": {"signal": "SIGSTOP"}}}
    fleet = Fleet(trials, command(out), 2, hooks=hook)
    until = time.monotonic() + 30
    while not checkpoints(out) and time.monotonic() < until:
        time.sleep(0.1)
    ended = run(trials, command(out), 2)
    assert ended_codes(ended) == [4, 4]
    assert "is in use by pid" in ended[0].text
    fleet.kill(0)
    fleet.kill(1)
    fleet.wait()


@pytest.mark.slow
def test_what_is_not_finite_on_one_rank_is_skipped_on_both(trials: Server, tmp_path: Path):
    """F29: the samples are those of the rank that had it, the step that of both."""
    out = tmp_path / "run"
    poison = {"faults": {"poison": {"rows": [], "first": 7, "last": 7, "whole": True}}}
    ended = run(trials, command(out), 2, hooks={1: poison})
    assert ended_codes(ended) == [0, 0], ended[0].text
    rows = [json.loads(line) for line in (out / "anomalies.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [7]
    assert len(rows[0]["samples"]) == 8
    assert len(rows[0]["batch"]) == 16
    assert json.loads((out / "results.json").read_text())["skipped_steps"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
def test_ranks_go_back_together(trials: Server, tmp_path: Path, layout: str):
    """F29: steps of one rank are not finite until the run went back; that is the same on both."""
    out = tmp_path / "run"
    poison = {"faults": {"poison": {"rows": [], "first": 7, "last": 9, "whole": True}}}
    words = command(out, parallel=layout, max_skips=3, steps=18)
    ended = run(trials, words, 2, hooks={1: poison})
    # the images are not to blame here: the second time is one too many
    assert ended_codes(ended) == [6, 6], ended[0].text
    assert "Back to step 6 once, without 24 of the images" in ended[0].text
    again = run(trials, words, 2)
    assert ended_codes(again) == [0, 0], again[0].text
    resolved = yaml.safe_load((out / "config.yaml").read_text())["resolved"]
    assert resolved["rolled_back"]["lr_factor"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors"])
def test_a_full_disk_while_parts_are_gathered(trials: Server, whole: Path, tmp_path: Path, name):
    """F5: the other rank gives the rest of its parts all the same, and training goes on."""
    out = tmp_path / "run"
    full = {"faults": {"full_disk": {"step": 6, "name": name}}}
    ended = run(trials, command(out, parallel="fsdp"), 2, hooks={0: full})
    assert ended_codes(ended) == [0, 0], ended[0].text
    assert "checkpoint of step 6 not saved" in ended[0].text
    assert checkpoints(out) == checkpoints(whole)
    assert len(losses(out)) == len(losses(whole))


@pytest.mark.slow
def test_memory_that_ends_on_one_rank_lowers_the_micro_batch(trials: Server, tmp_path: Path):
    """F37: with --micro-batch auto the next start takes less, and the batch stays."""
    out = tmp_path / "run"
    words = command(out, micro_batch="auto")
    ended = run(trials, words, 2, hooks={1: {"faults": {"exhausted": {"step": 5}}}})
    assert ended_codes(ended) == [1, 5], ended[0].text  # rank 0 only lost its peer
    assert "Out of GPU memory on rank 1 at 8 images at a time" in ended[1].text
    again = run(trials, words, 2)
    assert ended_codes(again) == [0, 0], again[0].text
    resolved = yaml.safe_load((out / "config.yaml").read_text())["resolved"]
    assert resolved["micro_batch"] == 4
