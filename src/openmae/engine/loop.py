"""The one training loop, for every method. The loop's only state is `step`; everything random is a
function of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from openmae.engine.afford import affordable_step
from openmae.engine.agree import agree
from openmae.engine.device import autocast
from openmae.engine.distributed import World
from openmae.engine.ema import EMA
from openmae.engine.log import Progress, TensorBoard
from openmae.engine.monitor import Monitor
from openmae.engine.optim import Schedule, set_rates
from openmae.engine.parallel import gradients_stay, uncompiled
from openmae.engine.runfolder import RunFolder
from openmae.engine.saving import Saver
from openmae.engine.sharding import clip, total_norm
from openmae.engine.signals import StopRequest
from openmae.engine.slow import DATA, Wait, Watch
from openmae.errors import DataError, LostPeerError, MemoryLimitError, OpenMAEError, StorageError
from openmae.randomness import Rand, torch_seed

Batch = Mapping[str, Any]


@dataclass
class State:
    """What training changes."""

    method: nn.Module
    optimizer: Optimizer
    ema: EMA | None
    step: int = 0
    updating: bool = False  # the weights of this step began to change
    skipped: list[tuple[int, list[int]]] = field(default_factory=list)
    """Steps skipped of late, each with the ids of the samples to blame."""
    forward: nn.Module | None = None
    """What runs the forward pass where ranks share the method; the method itself by default."""


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
    decay: Schedule | None = None  # of the weight decay; None: it stays
    log_every: int = 10
    save_every: int = 1000
    keep: int = 3
    max_skips: int = 10
    background: bool = False  # save while training goes on
    on_save_error: str = "continue"
    record: Mapping[str, Any] | None = None  # goes into state.json
    lower: Callable[[int, int], int] | None = None
    """(step, micro-batch that was too much for the memory) -> a smaller one; None ends the run."""
    advice: str = ""  # where the loader is the limit
    world: World = field(default_factory=World)


def training_step(state: State, batch: Batch, plan: Plan) -> dict[str, Tensor]:
    """One optimiser step on one global batch, of which each rank has its rows; returns loss,
    grad_norm, skipped, sample_loss and further values (of this rank), all on the device.

    A step whose loss or gradient is not finite changes nothing: fused AdamW reads `found_inf` on
    the device, so no value is read back here. Ranks average loss and gradients before that, so that
    all of them skip alike.
    """
    method, optimizer, step = state.method, state.optimizer, state.step
    forward, rows = state.forward or method, len(batch["image"])
    first = step * plan.global_batch + plan.world.slice(plan.global_batch)[0]
    rand = Rand(plan.seed, step, step / plan.total, first, rows)
    torch.manual_seed(
        torch_seed(plan.seed, "layers", step)
    )  # dropout and drop path, where a model has them
    loss, samples = torch.zeros((), device=plan.device), []
    values: dict[str, Tensor] = {}
    for start in range(0, rows, plan.micro_batch):
        stop = min(start + plan.micro_batch, rows)
        with gradients_stay(forward, stop < rows):
            with autocast(plan.precision, plan.device):
                out = forward(_part(batch, start, stop, plan.device), rand.slice(start, stop))
            share = (stop - start) / rows
            part = out["loss"] * share
            part.backward()
        loss = loss + part.detach()
        samples.append(out["sample_loss"])
        for name in out.keys() - _LOSSES:
            if out[name].ndim == 0:
                values[name] = values.get(name, 0) + out[name].detach().float() * share
    loss = plan.world.mean(loss)
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    norm = total_norm(grads)
    if plan.clip is not None:
        clip(grads, plan.clip, norm)
    skipped = 1 - torch.isfinite(loss + norm).float()
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    set_rates(optimizer, step, plan.schedule, plan.decay)
    state.updating = True
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(skipped)
    after_step = getattr(method, "after_step", None)
    if after_step is not None:
        after_step(rand, skipped)
    state.step, state.updating = step + 1, False
    told = {"loss": loss, "grad_norm": norm, "skipped": skipped}
    return values | told | {"sample_loss": torch.cat(samples)}


_LOSSES = {"loss", "sample_loss"}


def _part(batch: Batch, start: int, stop: int, device: torch.device) -> dict[str, Any]:
    """Rows start .. stop of a batch, with its tensors on the device, also those of lists."""
    rows = len(batch["image"])
    part: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            part[name] = value[start:stop].to(device, non_blocking=True)
        elif isinstance(value, list) and len(value) == rows:
            part[name] = [
                v.to(device, non_blocking=True) if isinstance(v, Tensor) else v
                for v in value[start:stop]
            ]
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
        StorageError: three saves in a row failed, or one that the plan does not forgive.
    """
    board = TensorBoard(run.path / "tensorboard", state.step) if track else None
    method_mode = state.method.training
    state.method.train()
    with torch.random.fork_rng(devices=[]), Progress(plan.total) as progress, Watch() as watch:
        monitor = Monitor(plan, run, progress, board, state.skipped)
        saver = Saver(plan, run, watch)
        waiting = watch.add(DATA, lambda t: f"waiting for data {t}: {_file(batches, state.step)}")
        try:
            reason = _steps(
                state, batches, plan, stop, monitor, saver, waiting, evaluate, evaluate_at
            )
            if state.step > 0:
                monitor.read(state.step)
                saver.save(state, last=True)
        except OpenMAEError as error:  # between two steps: what is finished is whole, so it is kept
            refused = error.exit_code == StorageError.exit_code
            if state.step > 0 and not refused and not isinstance(error, LostPeerError):
                saver.rescue(state)
            raise
        finally:
            saver.close()
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
    saver: Saver,
    waiting: Wait,
    evaluate: Callable[[State], Mapping[str, Any]] | None,
    evaluate_at: frozenset[int],
) -> str | None:
    """The loop itself; returns the reason of a stop."""
    trouble: OpenMAEError | None = None
    place, phase = plan.world.place, "first"  # of this process: it may compile
    while True:
        done, batch, reason = state.step >= plan.total, None, stop.reason()
        if not done and trouble is None and reason is None:
            place.at("data", state.step)
            waited = time.perf_counter()
            try:
                with waiting:
                    batch = next(batches)
            except (DataError, StorageError, MemoryLimitError) as error:
                trouble = error
            monitor.waited += time.perf_counter() - waited
        place.at("vote", state.step)
        reason = agree(plan.world, reason or stop.reason(), trouble, done)
        if reason is not None or done:
            return reason
        assert batch is not None
        at = state.step
        place.at(phase, at)
        phase = "step"
        values, plan = affordable_step(training_step, state, batch, plan)
        monitor.add(at, batch, values)
        trouble = _after_step(state, plan, monitor, saver, evaluate, evaluate_at)


def _after_step(
    state: State,
    plan: Plan,
    monitor: Monitor,
    saver: Saver,
    evaluate: Callable[[State], Mapping[str, Any]] | None,
    evaluate_at: frozenset[int],
) -> OpenMAEError | None:
    """Log, measure and save where it is time to; returns an error of this rank, which it tells to
    the others before the next step. Until then it does with them what they do.
    """
    done, errors = state.step == plan.total, list[OpenMAEError]()
    plan.world.place.at("read", state.step)
    with _kept(errors):
        saver.check()
    if state.step % plan.log_every == 0 or done:
        monitor.read(state.step)
    if evaluate is not None and state.step in evaluate_at:
        monitor.read(state.step)
        plan.world.place.at("measure", state.step)
        with _kept(errors), uncompiled(state.method):
            measured = evaluate(state)
            if measured:
                monitor.log({"step": state.step, **measured})
        monitor.restart()
    if state.step % plan.save_every == 0 and not done:  # after the evaluation: none is lost
        monitor.read(state.step)
        if not monitor.anomalies.in_row:  # weights that did not change since the last good step
            with _kept(errors):
                saver.save(state)
    return errors[0] if errors else None


@contextmanager
def _kept(errors: list[OpenMAEError]) -> Iterator[None]:
    try:
        yield
    except (DataError, StorageError, MemoryLimitError) as error:
        errors.append(error)


def _file(batches: Iterator[Batch], step: int) -> str:
    """What the loader reads for a step, where it can tell."""
    reading: Callable[[int], str | None] | None = getattr(batches, "reading", None)
    return (reading(step) if reading else None) or "the loader does not say which file"
