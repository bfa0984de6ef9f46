"""Cells of a grid as SLURM jobs, through submitit: this process only waits. It may be ended and the
same command finds its jobs again; they go on without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmae.config.ablate import parse_slurm
from openmae.config.training import seconds
from openmae.engine.log import say
from openmae.engine.textfile import write_text
from openmae.errors import UsageError
from openmae.tasks.grid import Cell
from openmae.tasks.gridrun import JOB, LOG, last_line, start_cell

if TYPE_CHECKING:
    import submitit

_GRACE = 120  # seconds before its limit at which a job saves; then it is queued again
_REQUEUES = 100  # of a job that saved
LOOK = 15.0  # seconds between looks at the queue
_TIME = "4h"


class CellJob:
    """What a job runs: the process of a cell. submitit calls `checkpoint` before the limit, and
    queues what it returns.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Exit code of the cell."""
        self.process = start_cell(Path(self.folder), os.environ)
        return self.process.wait()

    def checkpoint(self) -> Any:
        """Save, and go on in the next job."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE - 20)
        return DelayedSubmission(CellJob(self.folder))


@dataclass
class _Queued:
    cell: Cell
    folder: Path
    job: submitit.Job[int]


class SlurmJobs:
    """Cells as jobs of a cluster, `count` of them in the queue at a time."""

    def __init__(self, study: Path, words: tuple[str, ...], count: int | None) -> None:
        self.study, self.told = study, parse_slurm(words)
        self.count = count or 32
        self.going: list[_Queued] = []
        self.looked = 0.0
        try:
            import submitit
        except ImportError:
            raise UsageError('--slurm needs submitit: pip install "openmae[slurm]"') from None
        self.submitit = submitit

    def require(self) -> None:
        """Before the first job.

        Raises:
            UsageError: no cluster here.
        """
        if shutil.which("sbatch") is None:
            raise UsageError(
                "--slurm: there is no sbatch here. Give the command on a login node of the"
                " cluster, or leave --slurm out"
            )

    def room(self) -> bool:
        """Whether one more can be queued."""
        return len(self.going) < self.count

    def start(self, folder: Path, cell: Cell) -> None:
        """Queue a cell, unless it is in the queue already."""
        job = self._queued(folder) or self._submit(folder)
        self.going.append(_Queued(cell, folder, job))

    def _queued(self, folder: Path) -> submitit.Job[int] | None:
        """The job of an earlier command, where it has not ended."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            number = json.loads((folder / JOB).read_text(encoding="utf-8"))["job"]
            job: submitit.Job[int] = self.submitit.SlurmJob(self.study / "slurm", str(number))
            if not job.done(force_check=True):
                return job
        return None

    def _submit(self, folder: Path) -> submitit.Job[int]:
        executor = self.submitit.AutoExecutor(
            folder=self.study / "slurm", cluster="slurm", slurm_max_num_timeout=_REQUEUES
        )
        executor.update_parameters(**_parameters(self.told, self.study.name))
        job = executor.submit(CellJob(str(folder.resolve())))
        write_text(folder / JOB, json.dumps({"job": job.job_id}) + "\n")
        return job

    def ended(self) -> list[tuple[Cell, int, str]]:
        """Cells whose jobs ended since the last look: exit code and last line."""
        if time.monotonic() - self.looked < LOOK:
            return []
        self.looked = time.monotonic()
        done = [q for q in self.going if q.job.done()]
        self.going = [q for q in self.going if q not in done]
        return [(q.cell, *self._outcome(q)) for q in done]

    def _outcome(self, queued: _Queued) -> tuple[int, str]:
        (queued.folder / JOB).unlink(missing_ok=True)
        try:
            code = int(queued.job.result())
        except Exception as error:  # of the cluster: cancelled, no memory, a node lost
            state = queued.job.state
            line = str(error).strip().splitlines()[-1:] or [""]
            return 1, f"job {queued.job.job_id} ended as {state}: {line[0][:160]}"
        return code, last_line(queued.folder / LOG)

    def stop(self) -> None:
        """Leave the jobs: they go on without us."""
        numbers = " ".join(str(q.job.job_id) for q in self.going)
        if numbers:
            say("Jobs", f"go on in the queue; to end them: scancel {numbers}")
        self.going = []

    def kill(self) -> None:
        """Nothing: what is in the queue stays."""


def _parameters(told: Mapping[str, str], name: str) -> dict[str, Any]:
    """What was typed, as submitit's executor takes it."""
    given: dict[str, Any] = {"slurm_gpus_per_node": 1, "time": _TIME, **told}
    if "gpus_per_node" in given:
        given["slurm_gpus_per_node"] = int(given.pop("gpus_per_node"))
    minutes = max(1, round(seconds(given.pop("time")) / 60))
    found: dict[str, Any] = {"timeout_min": minutes, "name": f"openmae-{name}"}
    found["slurm_signal_delay_s"] = _GRACE
    for key, value in given.items():
        plain = int(value) if str(value).isdigit() else value
        found[key if key.startswith("slurm_") else f"slurm_{key}"] = plain
    return found
