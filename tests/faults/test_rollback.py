"""F29: too many steps without a finite loss. The run goes back once, without the images to blame,
at half the learning rate; killed and continued anywhere it does the same, to the bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from trials import STEPS, Server, checkpoints, command, final, left_over, losses, status

from openmae.data.loader import TrainBatches
from openmae.data.order import Order
from openmae.data.sources import digits
from openmae.data.transforms import TrainTransform
from openmae.engine import checkpoint
from openmae.engine.runfolder import read_jsonl
from openmae.tasks import rollback

BATCH, IMAGES = 16, 1437
BAD = [Order(0, IMAGES)(7 * BATCH + 3), Order(0, IMAGES)(8 * BATCH + 5)]
"""The images of two places of steps 7 and 8."""

POISON = {"faults": {"poison": {"rows": BAD}}}


def _words(out: Path, **more: Any) -> list[str]:
    return command(out, max_skips=2, **more)


def _decided(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((out / "config.yaml").read_text())["resolved"]
    return found["rolled_back"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def rolled(trials: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that went back once, and what it said."""
    out = tmp_path_factory.mktemp("rolled") / "run"
    ended = trials.run(_words(out), **POISON)
    assert ended.code == 0, ended.text
    return out, ended.text


def test_back_once_without_the_bad_ones(rolled: tuple[Path, str], whole: Path) -> None:
    out, said = rolled
    assert _decided(out) == {"step": 9, "from": 6, "excluded": sorted(BAD), "lr_factor": 0.5}
    assert "2 steps in a row without a finite loss, up to step 8. Back to step 6 once" in said
    assert "without 2 of the images, at 0.5 x the learning rate" in said
    assert [s for s, _, _ in losses(out)] == list(range(1, STEPS + 1))
    assert losses(out)[:6] == losses(whole)[:6]
    assert None not in [loss for _, loss, _ in losses(out)]
    assert final(out) != final(whole)
    rows = read_jsonl(out / "anomalies.jsonl")
    assert [r["what"] for r in rows] == ["Loss", "Loss", "Rolled back"]
    assert [len(r["samples"]) for r in rows[:2]] == [1, 1]
    rates = {r["step"]: r["lr"] for r in read_jsonl(out / "metrics.jsonl")}
    before = {r["step"]: r["lr"] for r in read_jsonl(whole / "metrics.jsonl")}
    assert rates[6] == before[6]
    assert all(rates[s] == pytest.approx(before[s] / 2) for s in range(7, STEPS + 1))


@pytest.mark.parametrize(
    ("at", "name"), [(8, "SIGKILL"), (8, "SIGTERM"), (10, "SIGKILL"), (14, "SIGTERM")]
)
def test_killed_and_continued_it_is_the_same(
    trials: Server, rolled: tuple[Path, str], tmp_path: Path, at: int, name: str
) -> None:
    """In the middle of the bad steps, and after the run went back."""
    out = tmp_path / "run"
    ended = trials.run(_words(out), at_step=at, act={"signal": name}, **POISON)
    assert ended.code == (75 if name == "SIGTERM" else -9), ended.text
    ended = trials.run(_words(out), **POISON)
    assert ended.code == 0, ended.text
    assert _decided(out) == _decided(rolled[0])
    assert final(out) == final(rolled[0])
    assert losses(out) == losses(rolled[0])
    assert left_over(out) == []


def test_a_longer_window_between_reads_decides_the_same(
    trials: Server, rolled: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ended = trials.run(_words(out, log_every=4), **POISON)
    assert ended.code == 0, ended.text
    assert _decided(out) == _decided(rolled[0])  # the save of step 9 reads too
    assert final(out) == final(rolled[0])


def test_the_second_time_ends_the_run(trials: Server, tmp_path: Path) -> None:
    """Nothing is finite from step 7 on: it is no image, and none is left out."""
    out = tmp_path / "run"
    faults = {"poison": {"rows": [], "first": 7, "whole": True}}
    ended = trials.run(_words(out), faults=faults)
    assert ended.code == 6, ended.text
    assert ended.text.count("Back to step 6 once, at 0.5 x") == 1
    last = ended.text[ended.text.rindex("2 steps in a row") :]
    for part in ("--lr ", "warm-up", "--clip 1.0", "anomalies.jsonl"):
        assert part in last
    found = status(out)
    assert (found["state"], found["exit_code"]) == ("failed", 6)
    assert _decided(out)["excluded"] == []
    for path in checkpoint.listed(out / "checkpoints"):
        assert checkpoint.problem(path) is None
    lower = [*_words(out, lr=1e-3), "--allow-change", "lr"]
    ended = trials.run(lower)
    assert ended.code == 0, ended.text
    assert _decided(out)["lr_factor"] == 1.0, "a rate that was chosen knowing all is not halved"


def test_back_to_the_start_without_a_checkpoint(trials: Server, tmp_path: Path) -> None:
    rows = [Order(0, IMAGES)(step * BATCH) for step in (1, 2)]
    out, other = tmp_path / "run", tmp_path / "other"
    ended = trials.run(_words(out), faults={"poison": {"rows": rows}})
    assert ended.code == 0, ended.text
    assert _decided(out) == {"step": 3, "from": 0, "excluded": sorted(rows), "lr_factor": 0.5}
    hooks = {"faults": {"poison": {"rows": rows}}}
    ended = trials.run(_words(other), at_step=4, act={"signal": "SIGKILL"}, **hooks)
    assert ended.code == -9, ended.text
    assert checkpoints(other) == ["step_00000003"]
    assert trials.run(_words(other), **hooks).code == 0
    assert final(other) == final(out)


def test_what_is_excluded_never_comes() -> None:
    """Two epochs: every image but one comes, and its places are taken by others."""

    transform = TrainTransform((8, 8), 0.5, True, 0)
    plain = TrainBatches(digits(), transform, 0, 479)
    without = TrainBatches(digits(), transform, 0, 479, "error", excluded=[5])
    first, second = ([i for s in range(6) for i in b[s]["id"]] for b in (plain, without))
    assert first.count(5) == 2
    assert second.count(5) == 0
    assert [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b] == [
        i for i, a in enumerate(first) if a == 5
    ]
    assert without[3]["bad"] == []


def test_decisions_follow_what_a_run_changes() -> None:
    made = {"rolled_back": {"step": 9, "from": 6, "excluded": [1], "lr_factor": 0.5}}
    rollback.changed(made, {"keep": 4}, same_data=True)
    assert (rollback.lr_factor(made), rollback.excluded(made)) == (0.5, [1])
    rollback.changed(made, {"lr": 0.1}, same_data=False)
    assert (rollback.lr_factor(made), rollback.excluded(made)) == (1.0, [])
    assert (rollback.lr_factor({}), rollback.excluded({"rolled_back": None})) == (1.0, [])


def test_skips_from_before_are_forgiven(tmp_path: Path) -> None:
    found = checkpoint.Checkpoint(tmp_path, 9, json.loads('{"skipped": [[3, [1]], [7, []]]}'))
    assert rollback.skipped_before(found, {}) == [(3, [1]), (7, [])]
    assert rollback.skipped_before(found, {"rolled_back": {"from": 6}}) == [(7, [])]
