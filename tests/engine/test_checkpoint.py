"""What is saved comes back to the bit; what is kept, chosen and removed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from parts import Tiny, assert_equal_bits, batch, bits, plan, state
from safetensors.torch import load_file
from torch import nn

from openmae.engine import checkpoint
from openmae.engine.ema import EMA
from openmae.engine.loop import State, training_step
from openmae.engine.optim import adamw
from openmae.engine.tensorfile import write_tensors
from openmae.errors import StorageError


def _trained(steps: int, decay: float | None = 0.9) -> State:
    made = state(decay=decay)
    for step in range(steps):
        training_step(made, batch(step), plan())
    return made


def _save(folder: Path, made: State) -> Path:
    return checkpoint.save(
        folder, made.step, made.method, made.optimizer, made.ema, {"seed": 0, "note": "x"}
    )


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_all_bits_come_back(tmp_path: Path, steps: int, decay: float | None) -> None:
    made = _trained(steps, decay)
    path = _save(tmp_path, made)
    other = state(seed=1, decay=decay)
    found, notices = checkpoint.latest(tmp_path)
    assert notices == []
    assert found is not None
    assert (found.path, found.step, found.state["note"]) == (path, steps, "x")
    checkpoint.restore(found, other.method, other.optimizer, other.ema)
    assert_equal_bits(bits(other), bits(made))
    other.step = found.step
    for run in (made, other):  # and they go on alike
        for step in range(steps, steps + 3):
            training_step(run, batch(step), plan())
    assert_equal_bits(bits(other), bits(made))


def test_what_is_in_the_files(tmp_path: Path) -> None:
    path = _save(tmp_path, _trained(3))
    assert sorted(p.name for p in path.iterdir()) == [
        "MANIFEST.json", "optimizer.safetensors", "state.json", "weights.safetensors",
    ]  # fmt: skip
    weights = load_file(path / "weights.safetensors")
    names = ["linear.bias", "linear.weight", "scale"]
    assert sorted(weights) == sorted([*names, *(f"ema.{n}" for n in names), "ema.count"])
    assert float(weights["ema.count"]) == 3.0
    moments = load_file(path / "optimizer.safetensors")
    keys = ["exp_avg", "exp_avg_sq", "step"]
    assert sorted(moments) == [f"linear.{n}/{k}" for n in ("bias", "weight") for k in keys]
    assert float(moments["linear.bias/step"]) == 3.0
    assert json.loads((path / "state.json").read_text())["step"] == 3


def test_a_complete_one_is_kept_and_a_damaged_one_replaced(tmp_path: Path) -> None:
    made = _trained(2)
    path = _save(tmp_path, made)
    before = (path / "MANIFEST.json").stat().st_ino
    assert _save(tmp_path, made) == path
    assert (path / "MANIFEST.json").stat().st_ino == before
    (path / "state.json").write_bytes(b"")
    assert checkpoint.problem(path) is not None
    assert _save(tmp_path, made) == path
    assert checkpoint.problem(path) is None


def test_the_newest_is_chosen_by_the_step_of_its_manifest(tmp_path: Path) -> None:
    """Never by name or by time: a copy put back, or a clock that jumped, decides nothing."""
    made = state()
    for step in (9, 10, 200):
        made.step = step
        path = _save(tmp_path, made)
        os.utime(path, (2_000_000_000 - step, 2_000_000_000 - step))
    (tmp_path / "step_00000200").rename(tmp_path / "step_a")
    (tmp_path / "step_00000009").rename(tmp_path / "step_99999999")
    found, notices = checkpoint.latest(tmp_path)
    assert notices == []
    assert found is not None
    assert (found.step, found.path.name) == (200, "step_a")
    names = [p.name for p in checkpoint.listed(tmp_path)]
    assert names == ["step_a", "step_00000010", "step_99999999"]


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) == (None, [])
    assert checkpoint.latest(tmp_path / "none") == (None, [])
    assert checkpoint.listed(tmp_path / "none") == []
    checkpoint.clean(tmp_path / "none")
    checkpoint.prune(tmp_path / "none", 2)


def _stale(folder: Path) -> Path:
    path = folder / ".tmp-step_00000099-abc"
    path.mkdir(parents=True)
    (path / "weights.safetensors").write_bytes(b"half")
    return path


def test_stale_folders_are_removed(tmp_path: Path) -> None:
    path, stale = _save(tmp_path, state()), _stale(tmp_path)
    assert checkpoint.latest(tmp_path)[0] is not None
    checkpoint.clean(tmp_path)
    assert not stale.exists()
    assert checkpoint.problem(path) is None


@pytest.mark.parametrize("keep", [2, 3])
def test_the_last_n_are_kept_once_the_newest_verifies(tmp_path: Path, keep: int) -> None:
    made = state()
    for step in range(5):
        made.step = step
        newest = _save(tmp_path, made)
    data = (newest / "weights.safetensors").read_bytes()
    (newest / "weights.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    checkpoint.prune(tmp_path, keep)
    assert len(checkpoint.listed(tmp_path)) == 5
    (newest / "weights.safetensors").write_bytes(data)
    stale = _stale(tmp_path)
    checkpoint.prune(tmp_path, keep)
    assert [p.name for p in checkpoint.listed(tmp_path)] == [
        f"step_{s:08d}" for s in range(4, 4 - keep, -1)
    ]
    assert not stale.exists()


def test_group_settings_never_come_from_the_file(tmp_path: Path) -> None:
    made = _trained(2)
    _save(tmp_path, made)
    other = state(seed=1)
    other.optimizer = adamw(other.method, 0.7, (0.5, 0.6), 0.3)
    found, _ = checkpoint.latest(tmp_path)
    assert found is not None
    checkpoint.restore(found, other.method, other.optimizer, other.ema)
    for group in other.optimizer.param_groups:
        assert (group["lr"], tuple(group["betas"])) == (0.7, (0.5, 0.6))
        assert group["fused"] is True
    assert sorted(g["weight_decay"] for g in other.optimizer.param_groups) == [0.0, 0.3]


class _Renamed(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.head = self.linear
        del self.linear


@pytest.mark.parametrize(
    ("method", "named"),
    [
        (lambda: Tiny(4, 2), "scale"),
        (lambda: Tiny(5, 3), "linear.weight"),
        (_Renamed, "head"),
        (lambda: nn.Sequential(Tiny()), "0.linear"),
    ],
)
def test_another_model_is_refused_by_the_name_of_a_tensor(
    tmp_path: Path, method: object, named: str
) -> None:
    _save(tmp_path, _trained(1))
    found, _ = checkpoint.latest(tmp_path)
    assert found is not None
    other = method()  # type: ignore[operator]
    with pytest.raises(StorageError, match=named):
        checkpoint.restore(found, other, adamw(other, 0.1, (0.9, 0.95), 0.0), EMA(other, 0.9))
    with pytest.raises(StorageError):
        checkpoint.load_weights(found, method())  # type: ignore[operator]


def _one_tensor(tmp_path: Path, name: str, tensor: torch.Tensor) -> checkpoint.Checkpoint:
    """A checkpoint in which one tensor has another shape."""
    path = _save(tmp_path, _trained(1))
    for file in ("weights.safetensors", "optimizer.safetensors"):
        tensors = load_file(path / file)
        if name in tensors:
            (path / file).unlink()
            write_tensors(path / file, {**tensors, name: tensor}.items())
    return checkpoint.Checkpoint(path, 1, {})


@pytest.mark.parametrize(
    "name", ["linear.weight", "scale", "ema.linear.bias", "linear.weight/exp_avg"]
)
@pytest.mark.parametrize("shape", [(), (1,), (3, 3, 4)])
def test_a_tensor_that_would_only_fit_by_repeating(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    found = _one_tensor(tmp_path, name, torch.ones(shape))
    other = state(seed=1)
    with pytest.raises(StorageError, match=name):
        checkpoint.restore(found, other.method, other.optimizer, other.ema)


def test_load_weights_takes_the_averages(tmp_path: Path) -> None:
    made = _trained(3)
    _save(tmp_path, made)
    found, _ = checkpoint.latest(tmp_path)
    assert found is not None
    method = Tiny()
    assert checkpoint.load_weights(found, method) is True
    assert made.ema is not None
    assert torch.equal(method.linear.weight, made.ema.tensors()["linear.weight"])
    assert not torch.equal(method.linear.weight, made.method.linear.weight)  # type: ignore[union-attr]


def test_the_size_is_known_before(tmp_path: Path) -> None:
    method = nn.Linear(500, 500)
    ema = EMA(method, 0.9)
    optimizer = adamw(method, 0.1, (0.9, 0.95), 0.0)
    method(torch.ones(1, 500)).sum().backward()
    optimizer.step()
    path = checkpoint.save(tmp_path, 1, method, optimizer, ema, {})
    size = sum(p.stat().st_size for p in path.iterdir())
    assert size <= checkpoint.bytes_needed(method, ema=True) <= 1.1 * size
    shutil.rmtree(path)
