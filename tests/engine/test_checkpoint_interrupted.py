"""A save that ends at any of its file calls: the newest complete checkpoint loads, no half one."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parts import assert_equal_bits, batch, bits, plan, state

from openmae.engine import checkpoint
from openmae.engine.loop import State, training_step

KEEP = 2


class Death(BaseException):
    """Stands for the end of the process: from then on no file call has an effect."""


class Faults:
    """Counts file calls and fails from the k-th on ("dead") or at the k-th alone ("error")."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, dead: bool) -> None:
        self.calls, self.at, self.dead, self.fired = 0, at, dead, False
        for owner, name in (
            (os, "replace"), (os, "fsync"), (os, "mkdir"), (os, "open"), (os, "unlink"),
            (os, "rmdir"), (io, "open"), (builtins, "open"), (shutil, "rmtree"),
        ):  # fmt: skip
            patch.setattr(owner, name, self._wrap(getattr(owner, name)))

    def _wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls == self.at or (self.dead and self.calls > self.at):
                self.fired = True
                if self.dead:
                    raise Death
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **more)

        return call


def _step(made: State) -> None:
    training_step(made, batch(made.step), plan())


def _save(folder: Path, made: State) -> None:
    checkpoint.save(folder, made.step, made.method, made.optimizer, made.ema, {"seed": 0})
    checkpoint.prune(folder, KEEP)


def _interrupted(folder: Path, at: int, dead: bool) -> tuple[Faults, dict[int, Any]]:
    """Three sound saves, and a fourth with a fault; returns the bits of each step too."""
    made, kept = state(), {}
    for _ in range(3):
        _step(made)
        _save(folder, made)
        kept[made.step] = bits(made)
    _step(made)
    kept[made.step] = bits(made)
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, at, dead)
        try:
            _save(folder, made)
        except (OSError, Death):
            assert faults.fired
    return faults, kept


def _calls_of_a_save(tmp_path: Path) -> int:
    faults, _ = _interrupted(tmp_path / "count", -1, dead=False)
    assert not faults.fired
    return faults.calls


@pytest.mark.parametrize("dead", [True, False], ids=["dead", "error"])
def test_at_every_file_call(tmp_path: Path, dead: bool) -> None:
    calls, saved = _calls_of_a_save(tmp_path), set()
    assert calls >= 20
    for at in range(1, calls + 1):
        folder = tmp_path / str(at)
        faults, kept = _interrupted(folder, at, dead)
        assert faults.fired, f"the fault of call {at} never fired"
        found, notices = checkpoint.latest(folder)
        assert notices == [], f"call {at}: {notices}"
        assert found is not None, f"call {at}: no checkpoint"
        assert found.step in (3, 4), f"call {at}"
        saved.add(found.step)
        other = state(seed=1)
        checkpoint.restore(found, other.method, other.optimizer, other.ema)
        assert_equal_bits(bits(other), kept[found.step])
        sound = [p for p in checkpoint.listed(folder) if checkpoint.problem(p) is None]
        assert len(sound) >= KEEP, f"call {at}: {len(sound)} left"
        if not dead:
            assert not list(folder.glob(".tmp-*")), f"call {at}"
        checkpoint.clean(folder)
        assert not list(folder.glob(".tmp-*"))
    assert saved == {3, 4}


def test_the_order_of_durability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is on the disk before the manifest is, and the manifest before the name."""
    log: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def path_of(handle: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{handle}")).name

    def spy_fsync(handle: int) -> None:
        log.append(("fsync", path_of(handle)))
        fsync(handle)

    def spy_replace(old: Path, new: Path) -> None:
        log.append(("replace", Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    made = state()
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, 7, made.method, made.optimizer, made.ema, {})
    names = [f"{what} {name}" for what, name in log]
    assert names.pop(0) == f"fsync {tmp_path.name}"  # that there is a folder of checkpoints
    temporary = names.pop(4)
    assert temporary.startswith("fsync .tmp-step_00000007-")
    assert names == [
        "fsync weights.safetensors", "fsync optimizer.safetensors", "fsync state.json",
        "fsync MANIFEST.json", "replace step_00000007", "fsync checkpoints",
    ]  # fmt: skip


def test_a_killed_removal_of_an_old_one(tmp_path: Path) -> None:
    """Half of an old checkpoint is no reason to complain, and the next save removes the rest."""
    made = state()
    for _ in range(3):
        _step(made)
        checkpoint.save(tmp_path, made.step, made.method, made.optimizer, made.ema, {})
    (tmp_path / "step_00000001" / "MANIFEST.json").unlink()
    found, notices = checkpoint.latest(tmp_path)
    assert found is not None
    assert (found.step, notices) == (3, [])
    checkpoint.prune(tmp_path, KEEP)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]
