"""Running the cells of a grid: each in a process of its own, several at a time where asked. What is
done is never done again; a cell that was stopped or killed goes on where its run was saved.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from openmae.engine.device import cpu_count
from openmae.engine.log import duration, say
from openmae.engine.runfolder import RunFolder
from openmae.engine.signals import StopRequest
from openmae.engine.textfile import write_text
from openmae.errors import STOPPED_EARLY, DivergedError
from openmae.tasks.grid import Cell

_POLL = 0.1
_SAVING = 120.0  # seconds that cells have to save after a stop
_CELL = "from openmae.tasks.gridcell import main; main()"
LOG = "log.txt"
JOB = "slurm.json"  # of a cell that is in the queue of a cluster
_LOST = "its process was killed"


def folder_of(study: Path, cell: Cell) -> Path:
    """Where a cell keeps everything."""
    return study / "cells" / cell.name


def state_of(study: Path, cell: Cell) -> dict[str, Any]:
    """What is known of a cell: "state" is done, diverged, failed, stopped or waiting, with a
    "reason", and of a done one all that its cell.json has.
    """
    folder = folder_of(study, cell)
    values = _json(folder / "cell.json")
    if values and all(s.key in values["scores"] for s in cell.scorings):
        return values
    ended = _json(folder / "ended.json")
    if ended:
        return ended
    queued = _json(folder / JOB)
    if queued:
        return {"state": "waiting", "reason": f"job {queued['job']} of the cluster"}
    if (folder / "run").exists():
        return {"state": "stopped", "reason": f"{_LOST}{_reached(folder)}"}
    return {"state": "waiting", "reason": "not started"}


def _reached(folder: Path) -> str:
    """How far the run of a cell came, in words."""
    status = RunFolder(folder / "run").read_status()
    if status.get("state") == "done":
        return ", pretrained and not scored yet"
    saved = sorted((folder / "run" / "checkpoints").glob("step_*"))
    step = int(saved[-1].name.partition("_")[2]) if saved else status.get("step", 0)
    return f", saved at step {step:,} of {status['total']:,}" if status else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def write_job(study: Path, cell: Cell, keep_checkpoints: bool) -> Path:
    """Tell a cell what to do, and forget how it ended before."""
    folder = folder_of(study, cell)
    folder.mkdir(parents=True, exist_ok=True)
    values = {**cell.to_json(), "keep_checkpoints": keep_checkpoints}
    write_text(folder / "job.json", json.dumps(values, indent=1) + "\n")
    (folder / "ended.json").unlink(missing_ok=True)
    return folder


_ENDS = {
    STOPPED_EARLY: "stopped",
    -signal.SIGTERM: "stopped",  # asked before it was ready to hear: nothing was to be saved yet
    DivergedError.exit_code: "diverged",
}


def note_end(folder: Path, code: int, message: str) -> dict[str, Any]:
    """Keep how a cell ended that is not done. One that diverged would do so again."""
    state = _ENDS.get(code, "failed")
    reason = "asked to stop" if state == "stopped" else f"signal {-code}"
    reason = f"{reason}{_reached(folder)}" if state == "stopped" or code < 0 else message
    reason = reason or f"exit code {code}"
    values = {"state": state, "exit_code": code, "reason": reason}
    write_text(folder / "ended.json", json.dumps(values) + "\n")
    return values


@dataclass
class _Going:
    cell: Cell
    process: subprocess.Popen[bytes]
    log: Path
    start: float
    place: int


class Runner(Protocol):
    """What runs cells, some at a time."""

    count: int

    @property
    def going(self) -> Sequence[Any]: ...
    def room(self) -> bool: ...
    def start(self, folder: Path, cell: Cell) -> None: ...
    def ended(self) -> list[tuple[Cell, int, str]]: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


def start_cell(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The process of a cell, which ends with this one."""
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", _CELL, str(folder)],
            env={**environment, "OPENMAE_LAUNCHER": str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class Processes:
    """Cells as processes here, `count` at a time; they share the cores, or have a GPU each."""

    def __init__(self, count: int | None, device: str) -> None:
        plain = device in ("auto", "cuda")
        self.gpus = torch.cuda.device_count() if plain and torch.cuda.is_available() else 0
        self.count = count or max(1, self.gpus)
        self.going: list[_Going] = []

    def environment(self, place: int) -> dict[str, str]:
        """Of the cell at one of the places."""
        own = dict(os.environ)
        own.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if self.gpus:
            seen = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = seen.split(",") if seen else [str(i) for i in range(self.gpus)]
            own["CUDA_VISIBLE_DEVICES"] = names[place % len(names)]
        if self.count > 1:
            own.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // self.count)))
        return own

    def room(self) -> bool:
        """Whether one more can start."""
        return len(self.going) < self.count

    def start(self, folder: Path, cell: Cell) -> None:
        """Start a cell, in a session of its own: signals of the terminal are passed on by us."""
        place = min(set(range(self.count)) - {g.place for g in self.going})
        process = start_cell(folder, self.environment(place))
        log = folder / LOG
        self.going.append(_Going(cell, process, log, time.monotonic(), place))

    def ended(self) -> list[tuple[Cell, int, str]]:
        """Cells that ended since the last call: exit code and last line."""
        done = [g for g in self.going if g.process.poll() is not None]
        self.going = [g for g in self.going if g not in done]
        return [(g.cell, int(g.process.returncode), last_line(g.log)) for g in done]

    def stop(self) -> None:
        """Ask all cells to save and stop."""
        for going in self.going:
            if going.process.poll() is None:
                going.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all cells at once."""
        for going in self.going:
            going.process.kill()
            going.process.wait()


def last_line(log: Path) -> str:
    """The last message of a log that is meant for people."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").splitlines()
    told = [line for line in lines if line.startswith("openmae: ")] or lines[-1:]
    return told[-1].removeprefix("openmae: ")[:200] if told else ""


Told = Callable[[Cell, Mapping[str, Any]], None]


def run_cells(
    study: Path, cells: Iterable[Cell], runner: Runner, keep_checkpoints: bool, told: Told
) -> str | None:
    """Run every cell that is not done, in order; `told` hears of each that ended. Returns why it
    stopped before the end: a signal or a STOP file.
    """
    waiting = [c for c in cells if state_of(study, c)["state"] not in ("done", "diverged")]
    asked: float | None = None
    with StopRequest() as stop:
        stop.watch(study)
        try:
            while runner.going or (waiting and asked is None):
                if asked is None and stop.reason() is not None:
                    asked = time.monotonic()
                    say("Stop", f"{stop.reason()}: {len(runner.going)} runs are being saved")
                    runner.stop()
                if asked is not None and time.monotonic() - asked > _SAVING:
                    runner.kill()
                while waiting and asked is None and runner.room():
                    cell = waiting.pop(0)
                    runner.start(write_job(study, cell, keep_checkpoints), cell)
                for cell, code, message in runner.ended():
                    folder = folder_of(study, cell)
                    values = _json(folder / "cell.json") if code == 0 else {}
                    told(cell, values or note_end(folder, code, message))
                time.sleep(_POLL if runner.going else 0)
        finally:
            runner.kill()
        return stop.reason()


def left(seconds: list[float], waiting: int, at_a_time: int) -> str:
    """How long the cells that wait will take, by those that were done."""
    if not seconds or not waiting:
        return ""
    return f"; about {duration(sum(seconds) / len(seconds) * waiting / at_a_time)} left"
