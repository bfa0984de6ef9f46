"""The part of a run that trains: from a method and its checkpoint to what the run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from openmae.data.loader import TrainBatches, loader
from openmae.data.sources import Cached
from openmae.engine import checkpoint
from openmae.engine.anomalies import TooManySkipsError
from openmae.engine.device import auto_workers, deterministic, resolve_device, threads
from openmae.engine.distributed import World
from openmae.engine.ema import EMA, averaged
from openmae.engine.log import duration, say
from openmae.engine.loop import Plan, State, train
from openmae.engine.optim import Schedule, absolute_lr, adamw
from openmae.engine.parallel import Layout, parallelize, recompute
from openmae.engine.runfolder import Results, RunFolder, read_jsonl
from openmae.engine.signals import StopRequest
from openmae.errors import STOPPED_EARLY, OpenMAEError, StorageError
from openmae.methods import name_of
from openmae.methods.base import Base
from openmae.report.figures import plot_curves
from openmae.tasks import rollback
from openmae.tasks.estimate import loader_advice
from openmae.tasks.fitting import lower, next_time
from openmae.tasks.kind import Job, Kind
from openmae.tasks.whole import Whole
from openmae.weights import save_encoder


def _plan(kind: Kind, job: Job, method: Any, folder: RunFolder, world: World) -> Plan:
    config, resolved = job.config, job.resolved
    return Plan(
        total=resolved["total_steps"],
        global_batch=config.batch_size,
        micro_batch=resolved["micro_batch"],
        schedule=_schedule(job),
        seed=config.seed,
        device=torch.device(resolved["device"]),
        precision=resolved["precision"],
        epoch_images=len(job.source),
        clip=config.clip,
        decay=_decay(job),
        log_every=config.log_every,
        save_every=resolved["save_every"],
        keep=config.keep,
        max_skips=config.max_skips,
        background=_in_background(config, resolved),
        on_save_error=config.on_save_error,
        record={
            "seed": config.seed,
            "global_batch": config.batch_size,
            "data": resolved["data_hash"],
        }
        | {"method": {"name": name_of(method), "arguments": method.arguments}},
        lower=partial(lower, kind, job, folder)
        if config.micro_batch == "auto" and world.size == 1
        else None,
        advice=loader_advice(job),
        world=world,
    )


def _schedule(job: Job) -> Schedule:
    config, resolved = job.config, job.resolved
    factor = rollback.lr_factor(resolved)
    rate, end = (factor * absolute_lr(r, config.batch_size) for r in (config.lr, config.min_lr))
    shape = getattr(config, "schedule", "cosine")
    return Schedule(rate, end, resolved["warmup_steps"], resolved["total_steps"], shape)


def _decay(job: Job) -> Schedule | None:
    """By half a cosine over the whole run, as DINO's; the commands that cannot say so keep it."""
    end = getattr(job.config, "weight_decay_end", None)
    if end is None:
        return None
    return Schedule(job.config.weight_decay, end, 0, job.resolved["total_steps"])


def _in_background(config: Any, resolved: Mapping[str, Any]) -> bool:
    """By default where a copy of the weights does not take memory from training."""
    asked: bool | None = config.save_in_background
    return torch.device(resolved["device"]).type == "cuda" if asked is None else asked


def train_job(
    kind: Kind,
    job: Job,
    method: Any,
    folder: RunFolder,
    stop: StopRequest,
    found: checkpoint.Checkpoint | None,
    world: World,
) -> Results:
    """Train a method from a checkpoint, or from its first step, to the end or a stop."""
    config, resolved = job.config, job.resolved
    device = resolve_device(resolved["device"])
    method.to(device)
    plan = _plan(kind, job, method, folder, world)
    state = _state(kind, job, method, plan, found)
    if world.main:
        stop.watch(folder.path)
    whole = Whole(kind, job, world)
    with threads(resolved["threads"]), deterministic(config.deterministic):
        measure = whole.measured(kind.evaluator(job, folder, plan, device))
        points = _points(config.eval_every, plan.total, len(job.source), config.batch_size)
        try:
            reason = _trained(kind, job, state, plan, folder, stop, measure, points)
        except torch.OutOfMemoryError:
            short = next_time(kind, job, folder, state.step, plan)
            _failed(folder, state, plan, short)
            raise short from None
        except OpenMAEError as error:
            _failed(folder, state, plan, error)
            raise
        world.place.at("save", state.step)
        ended = whole(state) if reason is None else state
        world.place.at("end", state.step)  # rank 0 goes on alone
        if not world.main:
            return Results({}, folder.path, 0 if reason is None else STOPPED_EARLY)
        try:
            return _end(kind, job, ended, plan, folder, reason)
        except OSError as error:
            text = (
                f"{folder.path}: {error.strerror or error}. The checkpoint is safe: free some space"
            )
            _failed(folder, state, plan, refused := StorageError(f"{text}, then run it again"))
            raise refused from None


def _state(
    kind: Kind, job: Job, method: Any, plan: Plan, found: checkpoint.Checkpoint | None
) -> State:
    """A method laid out over the ranks, with its optimiser, as a checkpoint left them."""
    config, resolved, world = job.config, job.resolved, plan.world
    layout = Layout(resolved["parallel"], config.reshard, config.compress_gradients)
    accumulate = plan.micro_batch < world.slice(plan.global_batch)[1]
    if config.grad_checkpointing:
        recompute(method)
    forward = parallelize(method, resolved["compile"], world, layout, accumulate)
    groups = kind.groups(config, method)
    optimizer = adamw(method, plan.schedule.peak, config.betas, config.weight_decay, groups)
    ema = EMA(method, config.ema) if config.ema else None
    state = State(method, optimizer, ema, forward=forward)
    if found is not None:
        checkpoint.restore(found, method, optimizer, ema)
        state.step = found.step
        state.skipped = rollback.skipped_before(found, resolved)
    return state


def _trained(
    kind: Kind,
    job: Job,
    state: State,
    plan: Plan,
    folder: RunFolder,
    stop: StopRequest,
    measure: Any,
    points: frozenset[int],
) -> str | None:
    """Train; once again from an earlier step when too many steps were skipped. Returns the reason
    of a stop.
    """
    while True:
        stream = _stream(kind, job, state, plan)
        try:
            return train(state, stream, plan, folder, stop, measure, points, job.config.track)
        except TooManySkipsError as error:
            stream.close()
            plan.world.place.at("save", state.step)  # to be read again
            rollback.roll_back(kind, job, folder, state, error, plan.world)
            plan = replace(plan, schedule=_schedule(job))


def _stream(kind: Kind, job: Job, state: State, plan: Plan) -> Any:
    """The batches of this rank from the state's step on."""
    config, device, world = job.config, plan.device, plan.world
    workers = auto_workers(device.type) if config.workers is None else config.workers
    source = Cached(job.source) if job.resolved["cache"] and not workers else job.source
    transform = kind.transform(config, job.resolved)
    batches = TrainBatches(
        source,
        transform,
        config.seed,
        config.batch_size,
        config.bad_images,
        world.rank,
        world.size,
        repeats=config.repeats,
        excluded=rollback.excluded(job.resolved),
    )
    return loader(batches, range(state.step, plan.total), workers, pin=device.type == "cuda")


def _points(every: float | None, total: int, images: int, batch: int) -> frozenset[int]:
    """The steps after which to evaluate: every `every` epochs, ten times a run by default, and at
    the end.
    """
    interval = max(1, round(every * images / batch)) if every else max(1, total // 10)
    last = total - interval // 2  # no evaluation just before the one at the end
    return frozenset([*range(interval, last, interval), total])


def _failed(folder: RunFolder, state: State, plan: Plan, error: OpenMAEError) -> None:
    folder.status("failed", state.step, plan.total, str(error), error.exit_code)


def _end(
    kind: Kind, job: Job, state: State, plan: Plan, folder: RunFolder, reason: str | None
) -> Results:
    """Write what a run leaves behind, or say how to go on."""
    if reason is not None:
        folder.status("stopped", state.step, plan.total, reason, STOPPED_EARLY)
        saved = (
            f"saved step {state.step:,} of {plan.total:,}" if state.step else "nothing to save yet"
        )
        say("Stopped", f"{reason}: {saved}. The same command again continues")
        plot_curves(folder)
        return Results({"step": state.step, "stopped": reason}, folder.path, STOPPED_EARLY)
    about = {"weights": "ema" if state.ema else "raw", "step": str(state.step)}
    about |= kind.about(job.config, job.resolved)
    rows = read_jsonl(folder.metrics)
    results: dict[str, Any] = {
        "loss": next((r["loss"] for r in reversed(rows) if r.get("loss") is not None), None)
    }
    with averaged(state.ema):
        method: Any = state.method
        if hasattr(method, "encoder"):
            own = method.trained_encoder() if isinstance(method, Base) else method.encoder
            save_encoder(folder.encoder, own, about)
        results |= kind.finish(job, state, folder)
        plot_curves(folder)
    results |= {
        "steps": plan.total,
        "images_seen": plan.total * plan.global_batch,
        "skipped_steps": sum(r.get("skipped", 0) for r in rows),
        "seed": job.config.seed,
    }
    folder.write_json("results.json", results)
    folder.status("done", plan.total, plan.total, exit_code=0)
    more = "".join(f", {n} {results[n]:.4f}" for n in ("val_loss", "knn_accuracy") if n in results)
    loss = "unknown" if results["loss"] is None else f"{results['loss']:.4f}"
    skipped = results["skipped_steps"]
    say(
        "Done",
        f"loss {loss}{more}, {duration(_seconds(rows))} of training, {skipped} skipped steps",
    )
    for number, line in enumerate([*kind.next_steps(job, folder), f"openmae report {folder.path}"]):
        say("" if number else "Next", line)
    return Results(results, folder.path)


def _seconds(rows: list[dict[str, Any]]) -> float:
    """Time of all windows of steps that were logged."""
    timed = [r for r in rows if r.get("images_per_s")]
    before = [0, *(r["step"] for r in timed)]
    batch = timed[-1]["images"] / timed[-1]["step"] if timed else 0
    return sum(
        batch * (r["step"] - b) / r["images_per_s"] for r, b in zip(timed, before, strict=False)
    )
