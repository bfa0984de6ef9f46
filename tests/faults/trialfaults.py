"""Faults inside a forked trial: the fork server installs them by name before the command runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kill_save(step: int, where: str) -> None:
    """SIGKILL in the save of a step: before it writes, within its folder, or after the rename."""
    from openmae.engine import checkpoint

    real_write, real_replace = checkpoint.write, os.replace

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write(folder: Path, at: int, *more: Any) -> Any:
        if at == step and where == "before":
            die()
        return real_write(folder, at, *more)

    def replace(old: Any, new: Any) -> None:
        mine = str(new).endswith(f"step_{step:08d}")
        if mine and where == "within":
            die()
        real_replace(old, new)
        if mine and where == "after":
            die()

    checkpoint.write = write
    os.replace = replace


def slow_save(first: int, seconds: float) -> None:
    """Saves from a step on wait in the middle of writing."""
    from openmae.engine import checkpoint

    real = checkpoint.write_tensors

    def write(path: Path, tensors: Any) -> Any:
        found = real(path, tensors)
        if int(path.parent.name.split("-")[1].removeprefix("step_")) >= first:
            time.sleep(seconds)
        return found

    checkpoint.write_tensors = write


def poison(rows: list[int], first: int = 0, last: int = 10**9, whole: bool = False) -> None:
    """The images of some rows of the source are not numbers, or all that come with them, from one
    step to another.
    """
    import torch

    from openmae.data.loader import TrainBatches

    real = TrainBatches.__getitem__

    def made(self: TrainBatches, step: int) -> Any:
        batch = real(self, step)
        bad = [i for i, row in enumerate(batch["id"]) if row in rows]
        if first <= step <= last and (bad or whole):
            batch["image"] = batch["image"].float()
            batch["image"][slice(None) if whole else bad] = torch.nan
        return batch

    TrainBatches.__getitem__ = made  # type: ignore[method-assign]


def stall(row: int, seconds: float) -> None:
    """Reading one image takes long, and the notice comes early."""
    from openmae.data.source import Source
    from openmae.engine import loop

    real = Source.__getitem__

    def read(self: Source, index: int) -> Any:
        if index == row:
            time.sleep(seconds)
        return real(self, index)

    Source.__getitem__ = read  # type: ignore[method-assign]
    loop.DATA = seconds / 4


def kill_worker(step: int, times: int, marks: str) -> None:
    """The process that makes the batch of a step is killed, so many times; a file marks each."""
    import torch

    from openmae.data.loader import TrainBatches

    made_by = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    look = made_by._try_get_data
    made_by._try_get_data = lambda self: look(self, 0.2)  # type: ignore[method-assign]
    real = TrainBatches.__getitem__

    def made(self: TrainBatches, number: int) -> Any:
        before = len(list(Path(marks).iterdir()))
        if number == step and before < times and torch.utils.data.get_worker_info() is not None:
            (Path(marks) / str(before)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, number)

    TrainBatches.__getitem__ = made  # type: ignore[method-assign]


def early(saving: float) -> None:
    """Slow saves are told of after so many seconds."""
    from openmae.engine import saving as module

    module.SAVING = saving


def clock(offset: float, frozen: bool) -> None:
    """The time of day jumps at every look, by turns forth and back, or stands still."""
    real, looks = time.time, [0]

    def told() -> float:
        looks[0] += 1
        return 1e9 if frozen else real() + (offset if looks[0] % 2 else -offset)

    time.time = told


def exhausted(step: int) -> None:
    """The memory of the device is gone at a step."""
    import torch

    from openmae.engine import loop

    real = loop.training_step

    def run_out(state: Any, *more: Any) -> Any:
        if state.step == step:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(state, *more)

    loop.training_step = run_out


def full_disk(step: int, name: str) -> None:
    """The disk is full while a file of the save of a step is written, after the first kilobyte."""
    import errno

    from openmae.engine import checkpoint

    real = checkpoint.write_tensors

    def write(path: Path, tensors: Any) -> Any:
        if path.name == name and f"step_{step:08d}" in path.parent.name:
            next(iter(tensors))  # rank 0 asked for one tensor, the others wait to give the rest
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, tensors)

    checkpoint.write_tensors = write


KINDS: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (kill_save, slow_save, poison, stall, kill_worker, clock, exhausted, early, full_disk)
}


def install(faults: dict[str, dict[str, Any]]) -> None:
    """Put in some faults, each with its arguments."""
    for name, arguments in faults.items():
        KINDS[name](**arguments)
