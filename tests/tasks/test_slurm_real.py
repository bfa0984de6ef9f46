"""The job with a real torchrun and two ranks on the CPU; srun and scontrol are stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openmae.cli import main

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
echo $$ > srun.pid
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then echo localhost; else echo "$@" >> requeued.txt; fi
"""
WORDS = """
    pretrain digits --recipe digits --steps 300 --save-every 10 --log-every 10 --batch-size 16
    --dim 16 --depth 1 --heads 2 --decoder-dim 16 --decoder-depth 1 --decoder-heads 2 --workers 0
    --warmup-epochs 0 --out runs/x
"""


def start(number: int) -> subprocess.Popen[str]:
    beside = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{Path('bin').resolve()}:{beside}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(number),
        "SLURM_JOB_NODELIST": "localhost",
        "GLOO_SOCKET_IFNAME": "lo",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.Popen(
        ["bash", "job.sh"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_warning_saves_and_the_next_job_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        Path("bin", name).write_text(text)
        Path("bin", name).chmod(0o755)
    assert main(["slurm", "--gpus-per-node", "2", "--", *WORDS.split()]) == 0
    job = start(os.getpid())
    end = time.monotonic() + 120
    while not list(Path("runs/x/checkpoints").glob("step_*")):
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(int(Path("srun.pid").read_text()), signal.SIGUSR1)
    said = job.communicate(timeout=120)[0]
    status = json.loads(Path("runs/x/status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("stopped", 75), said
    assert 0 < status["step"] < 300
    assert job.returncode == 0, said
    assert f"saved at step {status['step']}: queued again" in said
    assert Path("requeued.txt").read_text() == f"requeue {os.getpid()}\n"
    job = start(os.getpid() + 1)
    said = job.communicate(timeout=200)[0]
    assert job.returncode == 0, said
    assert "Continue" in said
    assert json.loads(Path("runs/x/status.json").read_text())["state"] == "done"
    assert Path("requeued.txt").read_text().count("requeue") == 1
