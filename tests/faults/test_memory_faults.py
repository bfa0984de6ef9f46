"""F37: the memory of the device ends at the first step, the second, or in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest
from trials import Server, assert_same_run, command, status


@pytest.mark.parametrize("step", [0, 1, 17])
def test_out_of_memory_at_a_step(trials: Server, whole: Path, tmp_path: Path, step: int) -> None:
    """Exit 5 with a batch that is computed; the same command goes on, here with more memory."""
    out = tmp_path / "run"
    ended = trials.run(command(out), faults={"exhausted": {"step": step}})
    assert ended.code == 5, ended.text
    assert "Traceback" not in ended.text
    assert "--micro-batch 8" in ended.text
    assert (status(out)["state"], status(out)["exit_code"]) == ("failed", 5)
    assert trials.run(command(out)).code == 0
    assert_same_run(out, whole)
