"""A damaged newest checkpoint: the run goes back to the one before, says so, and ends the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from trials import Server, assert_same_run, checkpoints, command, status

from openmae.engine import checkpoint

AT = 10  # the run then holds checkpoints 3, 6 and 9, and dies


def _flip(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 0x10
    (folder / name).write_bytes(data)


def _halve(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "bit": ("weights.safetensors", lambda f: _flip(f, "weights.safetensors")),
    "half": ("optimizer.safetensors", lambda f: _halve(f, "optimizer.safetensors")),
    "empty": ("state.json", lambda f: (f / "state.json").write_bytes(b"")),
    "no manifest": ("MANIFEST.json", lambda f: (f / "MANIFEST.json").unlink()),
}


def _killed(trials: Server, out: Path) -> list[Path]:
    ended = trials.run(command(out), at_step=AT, act={"signal": "SIGKILL"})
    assert ended.code == -9, ended.text
    folders = checkpoint.listed(out / "checkpoints")
    assert [p.name for p in folders] == ["step_00000009", "step_00000006", "step_00000003"]
    return folders


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_one(trials: Server, whole: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "run"
    newest = _killed(trials, out)[0]
    name, damage = DAMAGE[kind]
    damage(newest)
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    assert f"step_00000009: {name}" in ended.text
    assert "using step_00000006" in ended.text
    assert "at step 6 of" in ended.text
    assert_same_run(out, whole)


def test_two_damaged_ones(trials: Server, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for folder in _killed(trials, out)[:2]:
        _flip(folder, "state.json")
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    assert ended.text.count("fails its checksum") == 2
    assert "at step 3 of" in ended.text
    assert_same_run(out, whole)


def test_all_damaged(trials: Server, tmp_path: Path) -> None:
    """Nothing is thrown away, and nothing begins anew in silence."""
    out = tmp_path / "run"
    for folder in _killed(trials, out):
        _flip(folder, "weights.safetensors")
    before = checkpoints(out)
    ended = trials.run(command(out))
    assert ended.code == 4, ended.text
    assert "weights.safetensors fails its checksum" in ended.text
    assert "Traceback" not in ended.text
    assert checkpoints(out) == before


def test_a_finished_run_with_a_damaged_end(trials: Server, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    _halve(out / "checkpoints" / "step_00000024", "weights.safetensors")
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    assert "step_00000024: weights.safetensors has" in ended.text
    assert_same_run(out, whole)


def test_what_a_killed_save_left_is_removed(trials: Server, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    newest = _killed(trials, out)[0]
    stale = out / "checkpoints" / ".tmp-step_00000012-0123456789abcdef"
    shutil.copytree(newest, stale)
    (stale / "MANIFEST.json").unlink()
    ended = trials.run(command(out), at_step=11, act={"signal": "SIGTERM"})
    assert ended.code == 75, ended.text
    assert not stale.exists()
    assert trials.run(command(out)).code == 0
    assert status(out)["state"] == "done"


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b'{"state": 7}'])
def test_a_damaged_status_stops_nothing(
    trials: Server, whole: Path, tmp_path: Path, text: bytes
) -> None:
    """status.json is for scripts; the run itself trusts its checkpoints."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "status.json").write_bytes(text)
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    assert_same_run(out, whole)
