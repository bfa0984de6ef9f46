"""The one training loop, for every method. The loop's only state is `step`; everything random is a
function of it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from openmae.engine import checkpoint
from openmae.engine.afford import affordable_step
from openmae.engine.device import autocast
from openmae.engine.ema import EMA
from openmae.engine.log import Progress, TensorBoard, warn
from openmae.engine.monitor import Monitor
from openmae.engine.optim import Schedule
from openmae.engine.parallel import uncompiled
from openmae.engine.runfolder import RunFolder, gigabytes
from openmae.engine.signals import StopRequest
from openmae.errors import MemoryLimitError, OpenMAEError, StorageError
from openmae.randomness import Rand, torch_seed

Batch = Mapping[str, Any]
_SAVE_FAILURES = 3  # in a row, before the run ends


@dataclass
class State:
    """What training changes."""

    method: nn.Module
    optimizer: Optimizer
    ema: EMA | None
    step: int = 0
    updating: bool = False  # the weights of this step began to change


@dataclass(frozen=True)
class Plan:
    """What training is told. Batches and intervals in images and steps."""

    total: int
    global_batch: int
    micro_batch: int
    schedule: Schedule
    seed: int
    device: torch.device
    precision: str
    epoch_images: int
    clip: float | None = None
    log_every: int = 10
    save_every: int = 1000
    keep: int = 3
    max_skips: int = 10
    record: Mapping[str, Any] | None = None  # goes into state.json
    lower: Callable[[int, int], int] | None = None
    """(step, micro-batch that was too much for the memory) -> a smaller one; None ends the run."""
    advice: str = ""  # where the loader is the limit


def training_step(state: State, batch: Batch, plan: Plan) -> dict[str, Tensor]:
    """One optimiser step on one global batch; returns loss, grad_norm, skipped and sample_loss, all
    on the device.

    A step whose loss or gradient is not finite changes nothing: fused AdamW reads `found_inf` on
    the device, so no value is read back here.
    """
    method, optimizer, step = state.method, state.optimizer, state.step
    rows = len(batch["image"])
    rand = Rand(plan.seed, step, step / plan.total, step * plan.global_batch, rows)
    torch.manual_seed(
        torch_seed(plan.seed, "layers", step)
    )  # dropout and drop path, where a model has them
    loss, samples = torch.zeros((), device=plan.device), []
    for start in range(0, rows, plan.micro_batch):
        stop = min(start + plan.micro_batch, rows)
        with autocast(plan.precision, plan.device):
            out = method(_part(batch, start, stop, plan.device), rand.slice(start, stop))
        part = out["loss"] * ((stop - start) / rows)
        part.backward()
        loss = loss + part.detach()
        samples.append(out["sample_loss"])
    parameters = [p for p in method.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if plan.clip is not None:
        clip_grads_with_norm_(parameters, plan.clip, norm)
    skipped = 1 - torch.isfinite(loss + norm).float()
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        group["lr"] = plan.schedule(step) * group.get("lr_scale", 1.0)
    state.updating = True
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(skipped)
    after_step = getattr(method, "after_step", None)
    if after_step is not None:
        after_step(rand)
    state.step, state.updating = step + 1, False
    return {"loss": loss, "grad_norm": norm, "skipped": skipped, "sample_loss": torch.cat(samples)}


def _part(batch: Batch, start: int, stop: int, device: torch.device) -> dict[str, Any]:
    """Rows start .. stop of a batch, with its tensors on the device."""
    rows = len(batch["image"])
    part: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            part[name] = value[start:stop].to(device, non_blocking=True)
        elif isinstance(value, list) and len(value) == rows:
            part[name] = value[start:stop]
    return part


def train(
    state: State,
    batches: Iterator[Batch],
    plan: Plan,
    run: RunFolder,
    stop: StopRequest,
    evaluate: Callable[[State], Mapping[str, Any]] | None = None,
    evaluate_at: frozenset[int] = frozenset(),
    track: str | None = None,
) -> str | None:
    """Train from `state.step` to `plan.total`, or until a stop is asked for; returns the reason of
    a stop.

    `batches` yields the batch of each step in turn. `evaluate` runs after the steps of
    `evaluate_at` and returns what to log. The state of the last finished step is saved in either
    case.

    Raises:
        DivergedError: too many steps in a row without a finite loss.
        StorageError: three saves in a row failed.
    """
    board = TensorBoard(run.path / "tensorboard", state.step) if track else None
    saver = _Saver(plan, run)
    method_mode = state.method.training
    state.method.train()
    with torch.random.fork_rng(devices=[]), Progress(plan.total) as progress:
        monitor = Monitor(plan, run, progress, board)
        try:
            reason = _steps(state, batches, plan, stop, monitor, saver, evaluate, evaluate_at)
        except StorageError:
            raise
        except OpenMAEError:  # between two steps: what is finished is whole, so it is kept
            if state.step > 0:
                with contextlib.suppress(StorageError):
                    saver.save(state, last=True)
            raise
        if state.step > 0:
            monitor.read(state.step)
            saver.save(state, last=True)
    if board:
        board.close()
    state.method.train(method_mode)
    return reason


def _steps(
    state: State,
    batches: Iterator[Batch],
    plan: Plan,
    stop: StopRequest,
    monitor: Monitor,
    saver: _Saver,
    evaluate: Callable[[State], Mapping[str, Any]] | None,
    evaluate_at: frozenset[int],
) -> str | None:
    """The loop itself; returns the reason of a stop."""
    reason = stop.reason()
    while reason is None and state.step < plan.total:
        waited = time.perf_counter()
        try:
            batch = next(batches)
        except MemoryLimitError:  # a loader process was lost
            if (reason := stop.reason()) is None:
                raise
            break  # to the stop signal: what is finished is saved
        monitor.waited += time.perf_counter() - waited
        at = state.step
        values, plan = affordable_step(training_step, state, batch, plan)
        monitor.add(at, batch, values)
        done = state.step == plan.total
        if state.step % plan.log_every == 0 or done:
            monitor.read(state.step)
        if evaluate is not None and state.step in evaluate_at:
            monitor.read(state.step)
            with uncompiled(state.method):
                measured = evaluate(state)
            if measured:
                monitor.log({"step": state.step, **measured})
            monitor.restart()
        if state.step % plan.save_every == 0 and not done:  # after the evaluation: none is lost
            monitor.read(state.step)
            saver.save(state)
        reason = stop.reason() if not done else None
    return reason


class _Saver:
    """Saves checkpoints; training goes on after a failed save, until three fail in a row."""

    def __init__(self, plan: Plan, run: RunFolder) -> None:
        self.plan, self.run, self.failures = plan, run, 0

    def save(self, state: State, last: bool = False) -> None:
        run, plan = self.run, self.plan
        try:
            record = dict(plan.record or {})
            checkpoint.save(
                run.checkpoints, state.step, state.method, state.optimizer, state.ema, record
            )
            checkpoint.prune(run.checkpoints, plan.keep)
            run.status("running", state.step, plan.total)
            self.failures = 0
        except OSError as error:
            self.failures += 1
            free = gigabytes(shutil.disk_usage(run.path).free)
            needed = gigabytes(checkpoint.bytes_needed(state.method, state.ema is not None))
            text = (
                f"checkpoint of step {state.step} not saved in {run.checkpoints}:"
                f" {error.strerror or error}"
            )
            text += f" (needs {needed}, {free} free). Earlier ones are intact"
            if last or self.failures >= _SAVE_FAILURES:
                raise StorageError(
                    f"{text}. Free some space, then run the same command again"
                ) from None
            warn(f"{text}; training goes on ({self.failures} of {_SAVE_FAILURES})")
