"""F4: the power goes at any file call of a save. What was not fsynced is gone, and the newest
complete checkpoint still loads.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from injection import Dark, PowerLoss
from parts import assert_equal_bits, batch, bits, plan, state

from openmae.engine import checkpoint
from openmae.engine.loop import State, training_step

KEEP = 2


def _save(folder: Path, made: State) -> None:
    training_step(made, batch(made.step), plan())
    checkpoint.save(folder, made.step, made.method, made.optimizer, made.ema, {"seed": 0})
    checkpoint.prune(folder, KEEP)


def _lost(base: Path, at: int, sound: int) -> tuple[PowerLoss, dict[int, dict], bool]:
    """A run folder with some sound checkpoints, and a save in which the power goes at a call."""
    run, made, kept = base / "run", state(), {}
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("task: pretrain\n")
    for _ in range(sound):
        _save(run / "checkpoints", made)
        kept[made.step] = bits(made)
    with pytest.MonkeyPatch.context() as patch:
        power = PowerLoss(patch, run)
        power.names[run.stat().st_ino].pop("config.yaml", None)  # written, and not yet durable
        power.stop_at = at
        try:
            _save(run / "checkpoints", made)
            ended = True
        except Dark:
            ended = False
    kept[made.step] = bits(made)
    return power, kept, ended


@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
@pytest.mark.parametrize("sound", [0, 3])
def test_at_every_file_call(tmp_path: Path, eager: bool, sound: int) -> None:
    calls = _lost(tmp_path / "count", -1, sound)[0].calls
    assert calls >= 8
    found_steps = set()
    for at in range(1, calls + 2):
        base = tmp_path / str(at)
        power, kept, ended = _lost(base, at, sound)
        assert ended is (at > calls), f"the power never went at call {at}"
        power.restore(base / "after", eager)
        found, notices = checkpoint.latest(base / "after" / "checkpoints")
        assert notices == [], f"call {at}: {notices}"
        assert (found.step if found else 0) in (sound, sound + 1), f"call {at}"
        found_steps.add(found.step if found else 0)
        if found is not None:
            other = state(seed=1)
            checkpoint.restore(found, other.method, other.optimizer, other.ema)
            assert_equal_bits(bits(other), kept[found.step])
            assert (base / "after" / "config.yaml").exists() or sound, "the run itself is lost"
        if ended:
            assert found is not None
            assert found.step == sound + 1, "a save that returned is on the disk"
    assert found_steps == {sound, sound + 1}


def test_what_is_not_fsynced_is_lost(tmp_path: Path) -> None:
    """The shim itself: a file that nobody fsynced is empty, or not there."""
    run = tmp_path / "run"
    run.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        power = PowerLoss(patch, run)
        (run / "a").write_text("text")
    power.restore(tmp_path / "lazy", eager=False)
    power.restore(tmp_path / "eager", eager=True)
    assert not (tmp_path / "lazy" / "a").exists()
    assert (tmp_path / "eager" / "a").read_bytes() == b""
