"""Ranks of a real run killed at random, and started again by the launcher: the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trials import STEPS, Ended, Server, command, final, left_over, losses, status

HERE = str(Path(__file__).parent)
RANKS = 2


def launched(
    trials: Server,
    out: Path,
    kills: int = 0,
    seed: int = 0,
    steps: list[tuple[int, int]] | None = None,
    **more: Any,
) -> tuple[Ended, list[Any]]:
    """A run by `--gpus 2`, with that many kills at random; which ones there were."""
    told = out.with_name(f"{out.name}-kills.json")
    words = command(out, **{"gpus": RANKS, "restarts": 50, **more})
    ended = trials.wait(
        trials.start(
            words,
            call=[HERE, "forkranks", "launched"],
            count=kills,
            seed=seed,
            most=1.2,
            steps=steps or [],
            kills=str(told),
        )
    )
    return ended, json.loads(told.read_text())


@pytest.fixture(scope="module")
def unbroken(trials: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks") / "run"
    ended, kills = launched(trials, out)
    assert (ended.code, kills) == (0, []), ended.text
    return out


def same(out: Path, unbroken: Path) -> bool:
    """Weights, averages, moments and losses to the bit."""
    assert final(out) == final(unbroken)
    assert losses(out) == losses(unbroken)
    assert [step for step, _, _ in losses(out)] == list(range(1, STEPS + 1))
    assert left_over(out) == []
    found = status(out)
    return (found["state"], found["step"], found["exit_code"]) == ("done", STEPS, 0)


def test_killed_ranks_go_on_to_the_same_weights(
    trials: Server, unbroken: Path, tmp_path: Path
) -> None:
    """F18: after a step, before anything is imported, and after the last step."""
    steps = [(1, 5), (0, 11), (1, 0), (0, STEPS)]
    ended, _ = launched(trials, tmp_path / "run", steps=steps)
    assert ended.code == 0, ended.text
    told = [line for line in ended.text.splitlines() if "was killed" in line]
    assert [line.split()[2] for line in told] == ["1", "0", "1", "0"], "each fault must happen"
    assert [line.split(": ")[-1] for line in told] == [
        "restart 1 of 50 from step 3",
        "restart 1 of 50 from step 9",
        "restart 2 of 50 from step 9",
        "restart 1 of 50 from step 21",
    ]
    assert "Traceback" not in ended.text
    assert same(tmp_path / "run", unbroken)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_hundred_random_kills(trials: Server, unbroken: Path, tmp_path: Path) -> None:
    """F18 n."""
    total, number = 0, 0
    while total < 100:
        number += 1
        out = tmp_path / f"run-{number}"
        ended, kills = launched(trials, out, min(10, 100 - total), seed=number)
        assert ended.code == 0, ended.text
        restarts = ended.text.count("was killed (signal 9). At step ")
        assert restarts <= len(kills) <= restarts + 1, "the last may come when all work is done"
        assert same(out, unbroken), f"seed {number}"
        total += restarts
    print(f"{total} kills over {number} runs")
