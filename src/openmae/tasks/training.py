"""One run of any task that trains: started, continued, or found finished. The same command again
continues it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from openmae import rank
from openmae.config.base import Options
from openmae.config.training import seconds
from openmae.engine import checkpoint
from openmae.engine.device import environment
from openmae.engine.distributed import World, joined
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results, RunFolder
from openmae.engine.signals import StopRequest
from openmae.engine.watchdog import Watchdog
from openmae.errors import StorageError, UsageError
from openmae.tasks.announce import announce
from openmae.tasks.attention import built
from openmae.tasks.fitting import choose_micro_batch
from openmae.tasks.kind import Job, Kind
from openmae.tasks.prepare import prepare_new, write_listing
from openmae.tasks.ranks import (
    agree_on_start,
    agree_on_words,
    hang_found,
    held,
    newest,
    one_after_another,
    plan_ranks,
)
from openmae.tasks.resume import differences, prepare_resume, require_same_data
from openmae.tasks.running import train_job


def train_run(kind: Kind, config: Any, options: Options) -> Results:
    """Train, or continue a run; returns the final metrics, exit code 75 after an early stop. Where
    this process is one rank of several, all of them call this with the same settings.
    """
    limit = seconds(config.time_limit) if config.time_limit else None
    with (
        StopRequest(limit) as stop,
        joined(config.device) as world,
        Watchdog(world, seconds(config.rank_timeout), hang_found),
    ):
        agree_on_words(world, config)
        path = Path(config.out).expanduser() if config.out else kind.default_out(config)
        folder = RunFolder(path, world.main)
        rank.tell_folder(folder.path)
        new = world.vote(int(not folder.exists()))  # before rank 0 writes
        begin = _begin if new else _continue
        return begin(kind, config, options, folder, stop, world)


def _begin(
    kind: Kind, config: Any, options: Options, folder: RunFolder, stop: StopRequest, world: World
) -> Results:
    """A new run."""
    with one_after_another(world):
        job = prepare_new(kind, config, options, folder)
    method = built(kind, job)
    for number, line in enumerate((kind.start(job.config, method) or "").splitlines()):
        say("" if number else "Init", line)
    choose_micro_batch(kind, job, method)
    plan_ranks(world, job, method)
    announce(kind, job, method, folder, options)
    if options.dry_run:
        say("Dry run", "everything fits; nothing was written")
        return Results({"steps": job.resolved["total_steps"], "dry_run": True}, folder.path)
    agree_on_start(world, job, method)
    with held(world, folder):
        if world.main:
            if folder.exists():  # while the data were looked at
                raise StorageError(
                    f"{folder.path} was begun by another process. Give another --out, or run"
                    " the same command again to continue it"
                )
            _write_start(kind, job, folder)
        return train_job(kind, job, method, folder, stop, None, world)


def _continue(
    kind: Kind, config: Any, options: Options, folder: RunFolder, stop: StopRequest, world: World
) -> Results:
    """A run that is there already."""
    _require_task(kind, folder)
    finished = _finished(kind, config, options, folder)
    if finished is not None:
        return finished
    with held(world, folder):
        with one_after_another(world):
            job = prepare_resume(kind, config, options, folder)
        method = built(kind, job)
        found, notices = newest(world, folder)
        for notice in notices:
            warn(notice)
        at, total = found.step if found else 0, job.resolved["total_steps"]
        if at > total:
            raise UsageError(
                f"{folder.path} is at step {at:,} already, asked for {total:,}. Give a longer"
                " length, or another --out"
            )
        if options.dry_run:
            say("Dry run", f"{folder.path} would continue at step {at:,} of {total:,}")
            return Results({"step": at, "steps": total, "dry_run": True}, folder.path)
        choose_micro_batch(kind, job, method)
        changed = plan_ranks(world, job, method) or job.changed
        agree_on_start(world, job, method)
        say("Continue", f"{folder.path} at step {at:,} of {total:,}")
        if world.main:
            if changed:
                folder.write_config(kind.task, job.config.model_dump(mode="json"), job.resolved)
            if job.changed:
                write_listing(job.source, folder)
            checkpoint.clean(folder.checkpoints)
            folder.trim_metrics(at)
            folder.append("restarts.jsonl", {"step": at, "time": time.time()})
        if found is None:
            kind.start(job.config, method)
        return train_job(kind, job, method, folder, stop, found, world)


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
