"""The training step and the loop: accumulation, steps that are skipped, saves that fail."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from parts import ROWS, Tiny, assert_equal_bits, batch, batches, bits, plan, run_folder, state
from torch import nn

from openmae.engine import checkpoint, loop
from openmae.engine.loop import State, train, training_step
from openmae.engine.optim import Schedule, adamw
from openmae.engine.runfolder import RunFolder
from openmae.engine.signals import StopRequest
from openmae.errors import MemoryLimitError, StorageError
from openmae.methods.mae import MAE


class _Gradients:
    """Stands in for the optimizer: keeps the gradients that a step came with."""

    def __init__(self, method: nn.Module) -> None:
        self.method, self.param_groups, self.state = method, [], {}

    def step(self) -> None:
        named = self.method.named_parameters()
        self.gradients = {n: p.grad.clone() for n, p in named if p.grad is not None}

    def zero_grad(self, set_to_none: bool) -> None:
        self.method.zero_grad(set_to_none)


def _mae() -> MAE:
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    method = MAE("vit_tiny_patch16_224", 16, 4, 3, sizes, 16, 1, 2)
    return method.double()


@pytest.mark.parametrize("micro", [1, 2, 3, 4, 7])
def test_accumulation_is_one_batch(micro: int) -> None:
    images = torch.rand(ROWS, 3, 16, 16, dtype=torch.float64)
    paths = [str(i) for i in range(ROWS)]
    found = []
    for size in (ROWS, micro):
        method = _mae()
        optimizer = _Gradients(method)
        made = State(method, optimizer, None, step=3)  # type: ignore[arg-type]
        values = training_step(
            made, {"image": images, "path": paths}, plan(micro_batch=size, seed=5)
        )
        found.append((values, optimizer.gradients))
    (one, first), (many, second) = found
    assert one["loss"].dtype == torch.float64
    assert torch.allclose(one["loss"], many["loss"], rtol=1e-12, atol=0)
    assert torch.allclose(one["grad_norm"], many["grad_norm"], rtol=1e-12, atol=0)
    assert torch.allclose(one["sample_loss"], many["sample_loss"], rtol=1e-12, atol=0)
    assert first.keys() == second.keys()
    assert len(first) > 20
    whole = max(float(g.norm()) for g in first.values())
    for name, gradient in first.items():
        error = float((gradient - second[name]).norm())
        assert error <= 1e-12 * max(float(gradient.norm()), 1e-3 * whole), name


def test_the_clip_limits_the_norm_of_the_whole_batch() -> None:
    found = []
    for clip in (None, 0.01):
        method = Tiny()
        with torch.no_grad():
            for p in method.parameters():
                p.fill_(0.5)
        optimizer = _Gradients(method)
        training_step(State(method, optimizer, None), batch(0), plan(clip=clip, micro_batch=2))  # type: ignore[arg-type]
        found.append(torch.cat([g.flatten() for g in optimizer.gradients.values()]))
    free, clipped = found
    assert float(free.norm()) > 0.1
    assert float(clipped.norm()) == pytest.approx(0.01, rel=1e-4)
    assert torch.allclose(clipped / clipped.norm(), free / free.norm(), atol=1e-6)


def test_the_learning_rate_is_that_of_the_step() -> None:
    made, schedule = state(), Schedule(0.2, 0.0, 4, 12)
    for step in range(3):
        training_step(made, batch(step), plan(schedule=schedule))
        assert {g["lr"] for g in made.optimizer.param_groups} == {schedule(step)}
    assert schedule(0) == 0.0
    assert made.step == 3


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")


class _Gradless(Tiny):
    """A finite loss whose gradient is not, at one step."""

    def forward(self, batch: dict[str, Any], rand: Any) -> dict[str, torch.Tensor]:
        out = super().forward(batch, rand)
        if rand.step == 2:
            out["loss"] = _BadGradient.apply(out["loss"])
        return out


@pytest.mark.parametrize("what", ["Loss", "Gradient"])
@pytest.mark.parametrize("micro", [ROWS, 2])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_that_is_not_finite_changes_nothing(
    what: str, micro: int, clip: float | None
) -> None:
    made = state()
    if what == "Gradient":
        method = _Gradless()
        made = State(method, adamw(method, 0.1, (0.9, 0.95), 0.05), loop.EMA(method, 0.9))
    for step in range(2):
        training_step(made, batch(step), plan(micro_batch=micro, clip=clip))
    before = bits(made)
    poisoned = batch(2, nan_row=5 if what == "Loss" else None)
    values = training_step(made, poisoned, plan(micro_batch=micro, clip=clip))
    assert float(values["skipped"]) == 1.0
    assert bool(torch.isfinite(values["loss"])) is (what == "Gradient")
    assert_equal_bits(bits(made), before)  # weights, moments, their step, averages, their count
    assert made.step == 3
    values = training_step(made, batch(3), plan(micro_batch=micro, clip=clip))
    assert float(values["skipped"]) == 0.0
    after = bits(made)
    assert all(bool(torch.isfinite(t).all()) for t in after.values())
    assert not torch.equal(after["linear.weight"], before["linear.weight"])
    assert float(after["ema.count"]) == float(after["linear.weight/step"]) == 3.0


def _train(run: RunFolder, poisoned: frozenset[int] = frozenset(), **more: Any) -> State:
    made = state()
    with StopRequest() as stop:
        train(made, batches(0, poisoned), plan(**more), run, stop)
    return made


def _disk_full(
    monkeypatch: pytest.MonkeyPatch, fail: set[int], fired: list[int], name: str
) -> None:
    """The files of some steps' checkpoints do not fit, after half of one was written."""
    real = checkpoint.write_tensors

    def write(path: Path, *args: Any) -> Any:
        step = int(path.parent.name.split("-")[1].removeprefix("step_"))
        if step in fail and path.name == name:
            path.write_bytes(b"half")
            fired.append(step)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *args)

    monkeypatch.setattr(checkpoint, "write_tensors", write)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors"])
def test_a_failed_save_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run, fired = run_folder(tmp_path), list[int]()
    _disk_full(monkeypatch, {4, 6}, fired, name)
    made = _train(run, save_every=2, keep=9)
    assert fired == [4, 6]
    assert made.step == 12
    names = sorted(p.name for p in run.checkpoints.iterdir())
    assert names == [f"step_{s:08d}" for s in (2, 8, 10, 12)]
    assert all(checkpoint.problem(run.checkpoints / n) is None for n in names)
    said = capsys.readouterr().err
    assert "step 4 not saved" in said
    assert "No space left on device" in said
    assert str(run.checkpoints) in said
    assert "needs" in said
    assert "free" in said
    assert "training goes on (2 of 3)" in said


def test_three_failed_saves_in_a_row_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fired = run_folder(tmp_path), list[int]()
    _disk_full(monkeypatch, {3, 5, 6, 7}, fired, "optimizer.safetensors")
    with pytest.raises(StorageError, match="step 7 not saved") as caught:
        _train(run, save_every=1, keep=2)
    assert fired == [3, 5, 6, 7]
    assert caught.value.exit_code == 4
    assert "Earlier ones are intact" in str(caught.value)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["step_00000002", "step_00000004"]
    found, notices = checkpoint.latest(run.checkpoints)
    assert found is not None
    assert (found.step, notices) == (4, [])


def test_a_failed_last_save_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, fired = run_folder(tmp_path), list[int]()
    _disk_full(monkeypatch, {12}, fired, "weights.safetensors")
    with pytest.raises(StorageError, match="step 12 not saved"):
        _train(run)
    assert fired == [12]
    assert checkpoint.latest(run.checkpoints)[0].step == 8  # type: ignore[union-attr]


def test_a_stop_saves_the_last_finished_step(tmp_path: Path) -> None:
    run, made = run_folder(tmp_path), state()

    def stopping() -> Any:
        for step, one in enumerate(batches()):
            if step == 5:
                (run.path / "STOP").touch()
            yield one

    with StopRequest() as stop:
        stop.watch(run.path)
        assert train(made, stopping(), plan(), run, stop) == "STOP file"
    assert checkpoint.latest(run.checkpoints)[0].step == made.step == 5  # type: ignore[union-attr]


@pytest.mark.parametrize("asked", [True, False])
def test_a_loader_process_lost_to_a_stop_signal(tmp_path: Path, asked: bool) -> None:
    """A worker that dies of the signal that asks for the stop is part of the stop."""
    run, made = run_folder(tmp_path), state()

    def dying() -> Any:
        for step, one in enumerate(batches()):
            if step == 5:
                if asked:
                    (run.path / "STOP").touch()
                raise MemoryLimitError("A loader process was killed")
            yield one

    with StopRequest() as stop:
        stop.watch(run.path)
        if asked:
            assert train(made, dying(), plan(), run, stop) == "STOP file"
            assert checkpoint.latest(run.checkpoints)[0].step == 5  # type: ignore[union-attr]
        else:
            with pytest.raises(MemoryLimitError):
                train(made, dying(), plan(), run, stop)
    assert made.step == 5
