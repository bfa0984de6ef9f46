"""Memory that runs out in a step: the same step again in smaller parts, where the run allows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parts import ROWS, Tiny, assert_equal_bits, batches, bits, plan, run_folder, state
from torch.nn import functional as F

from openmae.engine.loop import State, train
from openmae.engine.signals import StopRequest
from openmae.errors import MemoryLimitError


class Hungry(Tiny):
    """A method for which more than `most` images at a time are too many, from a step on."""

    most, since = ROWS, 0

    def forward(self, batch: dict[str, Any], rand: Any) -> dict[str, torch.Tensor]:
        if rand.step >= self.since and len(batch["image"]) > self.most:
            held = F.relu(batch["image"])  # something of the step that is alive in the error
            raise torch.OutOfMemoryError(f"CUDA out of memory: {held.shape}")
        return super().forward(batch, rand)


def _hungry(most: int, since: int = 0) -> State:
    made = state()
    made.method.__class__ = Hungry
    made.method.most, made.method.since = most, since  # type: ignore[assignment]
    return made


def _run(made: State, folder: Path, **more: Any) -> State:
    with StopRequest() as stop:
        train(made, batches(), plan(**more), run_folder(folder), stop)
    return made


def test_a_step_that_does_not_fit_is_done_in_parts(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def lower(step: int, micro: int) -> int:
        asked.append((step, micro))
        return micro // 2

    made = _run(_hungry(2, since=5), tmp_path / "auto", lower=lower)
    assert asked == [(5, 8), (5, 4)]
    assert made.step == 12
    undisturbed = _run(_hungry(ROWS), tmp_path / "whole")
    for name, tensor in bits(undisturbed).items():
        torch.testing.assert_close(bits(made)[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_step_done_again_leaves_no_trace(tmp_path: Path) -> None:
    """To the bit a run that began with the parts that the other one found."""
    whole = _run(_hungry(1), tmp_path / "one", micro_batch=1)
    again = _run(_hungry(1), tmp_path / "again", lower=lambda _, micro: micro // 2)
    assert_equal_bits(bits(whole), bits(again))


def test_without_auto_the_error_stands(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        _run(_hungry(2), tmp_path)


def test_nothing_smaller_left_keeps_what_is_finished(tmp_path: Path) -> None:
    def lower(step: int, micro: int) -> int:
        raise MemoryLimitError("Out of GPU memory at one image at a time")

    with pytest.raises(MemoryLimitError):
        _run(_hungry(2, since=6), tmp_path, lower=lower, save_every=100)
    assert (tmp_path / "checkpoints/step_00000006").is_dir()


def test_not_after_the_weights_began_to_change(tmp_path: Path) -> None:
    made = state()
    real, calls = made.optimizer.step, []

    def step() -> None:
        real()
        calls.append(None)
        raise torch.OutOfMemoryError("in the optimiser")

    made.optimizer.step = step  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        _run(made, tmp_path, lower=lambda _, micro: micro // 2)
    assert len(calls) == 1


def test_other_errors_are_not_taken_for_it(tmp_path: Path) -> None:
    made = state()

    def step() -> None:
        raise RuntimeError("mat1 and mat2 shapes")

    made.method.forward = lambda *_: step()  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="mat1"):
        _run(made, tmp_path, lower=lambda _, micro: micro // 2)
