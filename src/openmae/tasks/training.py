"""One run of any task that trains: started, continued, or found finished. The same command again
continues it.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from openmae.config.base import Options
from openmae.config.training import seconds
from openmae.data.loader import TrainBatches, loader
from openmae.data.sources import Cached
from openmae.engine import checkpoint
from openmae.engine.device import auto_workers, deterministic, environment, resolve_device, threads
from openmae.engine.ema import EMA
from openmae.engine.log import duration, say, warn
from openmae.engine.loop import Plan, State, train
from openmae.engine.optim import Schedule, absolute_lr, adamw
from openmae.engine.parallel import parallelize
from openmae.engine.runfolder import Results, RunFolder, read_jsonl
from openmae.engine.signals import StopRequest
from openmae.errors import STOPPED_EARLY, OpenMAEError, StorageError, UsageError
from openmae.report.figures import plot_curves
from openmae.tasks.announce import announce
from openmae.tasks.attention import built
from openmae.tasks.estimate import loader_advice
from openmae.tasks.fitting import choose_micro_batch, lower, too_much
from openmae.tasks.kind import Job, Kind
from openmae.tasks.prepare import prepare_new, write_listing
from openmae.tasks.resume import differences, prepare_resume, require_same_data
from openmae.weights import save_encoder


def train_run(kind: Kind, config: Any, options: Options) -> Results:
    """Train, or continue a run; returns the final metrics, exit code 75 after an early stop."""
    with StopRequest(seconds(config.time_limit) if config.time_limit else None) as stop:
        folder = RunFolder(
            Path(config.out).expanduser() if config.out else kind.default_out(config)
        )
        if not folder.exists():
            job = prepare_new(kind, config, options, folder)
            method = built(kind, job)
            for number, line in enumerate((kind.start(job.config, method) or "").splitlines()):
                say("" if number else "Init", line)
            choose_micro_batch(kind, job, method)
            announce(kind, job, method, folder, options)
            if options.dry_run:
                say("Dry run", "everything fits; nothing was written")
                return Results({"steps": job.resolved["total_steps"], "dry_run": True}, folder.path)
            with folder.lock():
                if folder.exists():  # while the data were looked at
                    raise StorageError(
                        f"{folder.path} was begun by another process. Give another --out, or run"
                        " the same command again to continue it"
                    )
                _write_start(kind, job, folder)
                return _train(kind, job, method, folder, stop, None)
        _require_task(kind, folder)
        finished = _finished(kind, config, options, folder)
        if finished is not None:
            return finished
        with folder.lock():
            job = prepare_resume(kind, config, options, folder)
            method = built(kind, job)
            found, notices = checkpoint.latest(folder.checkpoints)
            for notice in notices:
                warn(notice)
            at, total = found.step if found else 0, job.resolved["total_steps"]
            if at > total:
                raise UsageError(
                    f"{folder.path} is at step {at:,} already, asked for {total:,}. Give a longer"
                    " length, or another --out"
                )
            if options.dry_run:
                say(
                    "Dry run",
                    f"{folder.path} would continue at step {at:,} of"
                    f" {job.resolved['total_steps']:,}",
                )
                return Results(
                    {"step": at, "steps": job.resolved["total_steps"], "dry_run": True}, folder.path
                )
            choose_micro_batch(kind, job, method)
            say("Continue", f"{folder.path} at step {at:,} of {job.resolved['total_steps']:,}")
            if job.changed:
                folder.write_config(kind.task, job.config.model_dump(mode="json"), job.resolved)
                write_listing(job.source, folder)
            checkpoint.clean(folder.checkpoints)
            folder.trim_metrics(at)
            if found is None:
                kind.start(job.config, method)
            return _train(kind, job, method, folder, stop, found)


def _require_task(kind: Kind, folder: RunFolder) -> None:
    task = folder.read_config().get("task", kind.task)
    if task != kind.task:
        raise StorageError(
            f"{folder.path} is a run of `openmae {task}`. Give another --out for {kind.task}"
        )


def _finished(kind: Kind, config: Any, options: Options, folder: RunFolder) -> Results | None:
    """What a finished run answers, unless its length is to change."""
    if set(options.allow_change) & {"epochs", "steps"}:
        return None
    saved, status = folder.read_config(), folder.read_status()
    total = saved["resolved"]["total_steps"]
    if (status.get("state"), status.get("step")) != ("done", total):
        return None
    found, _ = checkpoint.latest(folder.checkpoints)
    lost = found is not None and found.step < total  # none at all: they were removed to save space
    if lost or not (folder.path / "results.json").exists():
        return None
    now, _, resolved = differences(kind, config, options, folder)
    if Path(now.data).expanduser().resolve() != Path(saved["data"]).expanduser().resolve():
        require_same_data(kind.open_data(now, resolved)[0], resolved, options, folder)
    longer = (
        f"--steps {2 * saved['steps']} --allow-change steps"
        if saved["steps"]
        else f"--epochs {2 * saved['epochs']:g} --allow-change epochs"
    )
    say(
        "Done",
        f"{folder.path} finished at step {total:,}. Longer: {longer} (the schedule then spans the"
        " new length)",
    )
    return Results(
        json.loads((folder.path / "results.json").read_text(encoding="utf-8")), folder.path
    )


def _write_start(kind: Kind, job: Job, folder: RunFolder) -> None:
    """The files of a new run, config.yaml last: from then on the folder is a run."""
    folder.write_json("environment.json", environment(torch.device(job.resolved["device"])))
    write_listing(job.source, folder)
    if job.found is not None:
        for path, reason in job.found.bad:
            folder.append("bad_files.jsonl", {"path": path, "reason": reason})
    folder.status("running", 0, job.resolved["total_steps"])
    folder.write_config(kind.task, job.config.model_dump(mode="json"), job.resolved)


def _plan(kind: Kind, job: Job, method: Any, folder: RunFolder) -> Plan:
    config, resolved = job.config, job.resolved
    rate, end = (absolute_lr(r, config.batch_size) for r in (config.lr, config.min_lr))
    return Plan(
        total=resolved["total_steps"],
        global_batch=config.batch_size,
        micro_batch=resolved["micro_batch"],
        schedule=Schedule(rate, end, resolved["warmup_steps"], resolved["total_steps"]),
        seed=config.seed,
        device=torch.device(resolved["device"]),
        precision=resolved["precision"],
        epoch_images=len(job.source),
        clip=config.clip,
        log_every=config.log_every,
        save_every=resolved["save_every"],
        keep=config.keep,
        max_skips=config.max_skips,
        record={
            "seed": config.seed,
            "global_batch": config.batch_size,
            "data": resolved["data_hash"],
        }
        | {"method": {"name": kind.method_name, "arguments": method.arguments}},
        lower=partial(lower, kind, job, folder) if config.micro_batch == "auto" else None,
        advice=loader_advice(job),
    )


def _train(
    kind: Kind,
    job: Job,
    method: Any,
    folder: RunFolder,
    stop: StopRequest,
    found: checkpoint.Checkpoint | None,
) -> Results:
    config, resolved = job.config, job.resolved
    device = resolve_device(resolved["device"])
    method.to(device)
    plan = _plan(kind, job, method, folder)
    optimizer = adamw(
        method, plan.schedule.peak, config.betas, config.weight_decay, kind.groups(config, method)
    )
    ema = EMA(method, config.ema) if config.ema else None
    state = State(method, optimizer, ema)
    if found is not None:
        checkpoint.restore(found, method, optimizer, ema)
        state.step = found.step
    parallelize(method, resolved["compile"])
    workers = auto_workers(device.type) if config.workers is None else config.workers
    source = Cached(job.source) if resolved["cache"] and not workers else job.source
    transform = kind.transform(config, resolved)
    batches = TrainBatches(
        source, transform, config.seed, config.batch_size, config.bad_images, repeats=config.repeats
    )
    stop.watch(folder.path)
    with threads(resolved["threads"]), deterministic(config.deterministic):
        evaluator = kind.evaluator(job, folder, plan, device)
        points = _points(config.eval_every, plan.total, len(job.source), config.batch_size)
        try:
            stream = loader(
                batches, range(state.step, plan.total), workers, pin=device.type == "cuda"
            )
            reason = train(state, stream, plan, folder, stop, evaluator, points, config.track)
        except torch.OutOfMemoryError:
            _failed(folder, state, plan, short := too_much(plan.micro_batch, plan.global_batch))
            raise short from None
        except OpenMAEError as error:
            _failed(folder, state, plan, error)
            raise
        try:
            return _end(kind, job, state, plan, folder, reason)
        except OSError as error:
            text = (
                f"{folder.path}: {error.strerror or error}. The checkpoint is safe: free some space"
            )
            _failed(folder, state, plan, refused := StorageError(f"{text}, then run it again"))
            raise refused from None


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
    if state.ema:
        state.ema.swap()
    about = {"weights": "ema" if state.ema else "raw", "step": str(state.step)}
    about |= kind.about(job.config, job.resolved)
    save_encoder(folder.encoder, state.method.encoder, about)  # type: ignore[arg-type]
    rows = read_jsonl(folder.metrics)
    results: dict[str, Any] = {
        "loss": next((r["loss"] for r in reversed(rows) if r.get("loss") is not None), None)
    }
    results |= kind.finish(job, state, folder)
    plot_curves(folder)
    if state.ema:
        state.ema.swap()
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
    for number, line in enumerate(kind.next_steps(job, folder)):
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
