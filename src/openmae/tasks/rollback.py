"""Too many steps without a finite loss: the run goes back once, and on without the images to blame
at half the learning rate.

What was decided stands in `resolved["rolled_back"]`, {step, from, excluded, lr_factor}, so that a
run that is killed and continued does the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import torch

from openmae.engine import checkpoint
from openmae.engine.anomalies import TooManySkipsError
from openmae.engine.checkpoint import Checkpoint
from openmae.engine.distributed import World
from openmae.engine.ema import EMA
from openmae.engine.log import warn
from openmae.engine.loop import State
from openmae.engine.runfolder import RunFolder
from openmae.engine.sharding import fill
from openmae.tasks.kind import Job, Kind

FACTOR = 0.5  # of the learning rate
_NAME = "rolled_back"
_FEW, _SHARE = 10, 0.05  # images, and share of them, that may be left out


def lr_factor(resolved: Mapping[str, Any]) -> float:
    """By what the learning rate is multiplied."""
    return float((resolved.get(_NAME) or {}).get("lr_factor", 1.0))


def excluded(resolved: Mapping[str, Any]) -> list[int]:
    """The images that the run does without, as rows of its source."""
    return [int(i) for i in (resolved.get(_NAME) or {}).get("excluded", ())]


def skipped_before(found: Checkpoint, resolved: Mapping[str, Any]) -> list[tuple[int, list[int]]]:
    """The steps that were skipped up to a checkpoint, as `State.skipped`; those before the run went
    back are forgiven.
    """
    first = (resolved.get(_NAME) or {}).get("from", 0)
    log = found.state.get("skipped", [])
    return [(int(step), [int(i) for i in ids]) for step, ids in log if step >= first]


def changed(resolved: dict[str, Any], changes: Mapping[str, Any], same_data: bool) -> None:
    """Adapt what was decided to a run that goes on with other settings, or other images."""
    if not resolved.get(_NAME):
        return
    if "lr" in changes:  # which the user chose knowing what happened
        resolved[_NAME] = {**resolved[_NAME], "lr_factor": 1.0}
    if not same_data:
        resolved[_NAME] = {**resolved[_NAME], "excluded": []}


def roll_back(
    kind: Kind, job: Job, folder: RunFolder, state: State, error: TooManySkipsError, world: World
) -> None:
    """Bring `state` back to the last verified checkpoint from before the trouble, or to the start,
    and write down what is done otherwise from there.

    Raises:
        TooManySkipsError: the run went back before.
    """
    if job.resolved.get(_NAME):
        raise error
    told: Any = None
    if world.main:
        found = _target(folder, error.begin, job.resolved["save_every"])
        told = None if found is None else [str(found.path), found.step, found.state]
    told = world.broadcast(told)
    found = None if told is None else Checkpoint(folder.checkpoints / _name(told), *told[1:])
    at = 0 if found is None else found.step
    blamed = error.samples
    if len(blamed) > max(_FEW, _SHARE * len(job.source)) or 2 * len(blamed) > len(job.source):
        blamed = []  # so many are not all broken
    job.resolved[_NAME] = {"step": state.step, "from": at, "excluded": blamed, "lr_factor": FACTOR}
    if world.main:
        # Newer ones go first: killed here, the run comes to the same decision again.
        _forget_after(folder, at)
        folder.write_config(kind.task, job.config.model_dump(mode="json"), job.resolved)
        folder.trim_metrics(at)
    without = f", without {len(blamed)} of the images" if blamed else ""
    folder.append("anomalies.jsonl", {"what": "Rolled back", **job.resolved[_NAME]})
    warn(
        f"{str(error).splitlines()[0].split(';')[0]}. Back to step {at:,} once{without}, at"
        f" {FACTOR:g} x the learning rate; see anomalies.jsonl in {folder.path}"
    )
    world.barrier()
    _restore(kind, job, state, found)


def _name(told: list[Any]) -> str:
    return str(told[0]).rpartition("/")[2]


def _target(folder: RunFolder, begin: int, save_every: int) -> Checkpoint | None:
    """The newest sound checkpoint from before step `begin`; else the start, unless that is far,
    then the oldest one.
    """
    oldest = None
    for path in checkpoint.listed(folder.checkpoints):
        if checkpoint.problem(path) is None:
            oldest = checkpoint.read(path)
            if oldest.step <= begin:
                return oldest
    return oldest if begin >= save_every else None


def _forget_after(folder: RunFolder, step: int) -> None:
    for path in checkpoint.listed(folder.checkpoints):
        if checkpoint.step_of(path) > step:
            shutil.rmtree(path, ignore_errors=True)


def _restore(kind: Kind, job: Job, state: State, found: Checkpoint | None) -> None:
    """Weights, moments and averages of a checkpoint, or of the start, in place."""
    state.step, state.updating, state.skipped = 0 if found is None else found.step, False, []
    state.optimizer.zero_grad(set_to_none=True)
    if found is not None:
        checkpoint.restore(found, state.method, state.optimizer, state.ema)
        return
    fresh = kind.build(job.config, job.resolved)
    kind.start(job.config, fresh)
    with torch.no_grad():
        stored = fresh.state_dict()
        for name, tensor in state.method.state_dict().items():
            fill(tensor, stored[name].to(tensor.device))
    state.optimizer.state.clear()
    if state.ema is not None:
        state.ema = EMA(state.method, state.ema.decay)
