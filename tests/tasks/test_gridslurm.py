"""`openmae ablate --slurm` with stand-ins for the commands of a cluster: sbatch starts the script
in the background, sacct says whether it still goes on. What is in between is submitit's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from openmae.cli import main
from openmae.config.ablate import AblateConfig, parse_slurm
from openmae.tasks import gridslurm

submitit = pytest.importorskip("submitit", reason="submitit is not installed")

SBATCH = """#!/usr/bin/env python3
import os, pathlib, subprocess, sys
root = pathlib.Path(__file__).parent
number = str(100 + len(list(root.glob("*.sh"))))
script = pathlib.Path(sys.argv[-1]).read_text().replace("%j", number).replace("%t", "0")
(root / f"{number}.sh").write_text(script)
told = {"JOB_ID": number, "JOBID": number, "PROCID": "0", "LOCALID": "0", "NTASKS": "1",
        "JOB_NUM_NODES": "1", "NODEID": "0", "JOB_NODELIST": "n1"}
own = {**os.environ, **{f"SLURM_{name}": value for name, value in told.items()}}
with open(root / f"{number}.out", "wb") as out:
    process = subprocess.Popen(
        ["bash", str(root / f"{number}.sh")], env=own, stdout=out, stderr=out,
        stdin=subprocess.DEVNULL, start_new_session=True)
(root / f"{number}.pid").write_text(str(process.pid))
print("Submitted batch job", number)
"""
SRUN = """#!/usr/bin/env python3
import os, sys
words = sys.argv[1:]
while words and words[0].startswith("--"):
    words = words[2:] if words[0] in ("--output", "--error") else words[1:]
os.execvp(words[0], words)
"""
SACCT = """#!/usr/bin/env python3
import pathlib
print("JobID|State|NodeList")
for path in sorted(pathlib.Path(__file__).parent.glob("*.pid")):
    goes = pathlib.Path("/proc", path.read_text()).exists()
    print(f"{path.stem}|{'RUNNING' if goes else 'FAILED'}|n1")
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with the stand-ins, first on PATH."""
    root = tmp_path / "bin"
    root.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(gridslurm, "LOOK", 0.05)
    yield root
    for path in root.glob("*.pid"):
        try:
            os.killpg(int(path.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def words(classes, out, tiny, *more):
    own = ("ablate", classes, "--out", out, *tiny, "--score", "knn", "--recipe", "laptop")
    return [
        str(w) for w in (*own, "--slurm", "time=90m", "partition=gpu", "gpus_per_node=0", *more)
    ]


def table_of(out):
    return json.loads((out / "ablation.json").read_text())


@pytest.mark.timeout(200)
def test_jobs_give_what_processes_give(cluster, classes, tiny, tmp_path, capfd):
    out = tmp_path / "grid"
    own = words(classes, out, tiny, "--steps", 2, "--seeds", 1, "--vary", "mask_ratio=0.5")
    assert main(own) == 0
    text = (cluster / "100.sh").read_text()
    for line in ("--time=90", "--partition=gpu", "--signal=USR2@120", "--job-name=openmae-grid"):
        assert f"#SBATCH {line}" in text
    there = table_of(out)["rows"][0]
    assert there["n"] == 1
    here = tmp_path / "here"
    own = words(classes, here, tiny, "--steps", 2, "--seeds", 1, "--vary", "mask_ratio=0.5")
    at = own.index("--slurm")
    assert main(own[:at] + own[at + 4 :]) == 0
    assert there["scores"]["knn"]["values"] == table_of(here)["rows"][0]["scores"]["knn"]["values"]
    assert not list(out.glob("cells/*/slurm.json"))


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_command_that_was_killed_finds_its_job_again(cluster, classes, tiny, tmp_path):
    out = tmp_path / "grid"
    own = words(classes, out, tiny, "--steps", 40, "--seeds", 1, "--vary", "mask_ratio=0.5")
    command = [sys.executable, "-m", "openmae", *own]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 90
    while not list(out.glob("cells/*/slurm.json")):
        assert time.monotonic() < until
        assert first.poll() is None
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert main(own) == 0
    assert [p.name for p in cluster.glob("*.sh")] == ["100.sh"]  # one job, not two
    assert table_of(out)["rows"][0]["n"] == 1


@pytest.mark.timeout(200)
def test_a_job_that_the_cluster_ended_is_listed(
    cluster, classes, tiny, tmp_path, capsys, monkeypatch
):
    # how long submitit looks for what a slow network drive may still bring: 15 by itself
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1, raising=False)
    (cluster / "srun").write_text("#!/bin/sh\necho out of memory >&2\nexit 137\n")
    out = tmp_path / "grid"
    own = words(classes, out, tiny, "--steps", 2, "--seeds", 1, "--vary", "mask_ratio=0.5")
    assert main(own) == 1
    assert "the first run failed: job 100 ended as FAILED" in capsys.readouterr().err


def test_checkpoint_saves_and_queues_the_same_cell_again(tmp_path):
    """What submitit does before the limit: the process saves (exit code 75), the job goes on."""
    job = gridslurm.CellJob(str(tmp_path))
    code = "import signal,sys,time; signal.signal(15, lambda *_: sys.exit(75)); print(flush=True)"
    job.process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(60)"], stdout=subprocess.PIPE
    )
    assert job.process.stdout is not None
    job.process.stdout.readline()
    again = job.checkpoint()
    assert job.process.returncode == 75
    job.process.stdout.close()
    assert again.function.folder == str(tmp_path)


def test_no_cluster_is_said_before_anything_is_written(
    classes, tiny, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("PATH", "/nowhere")
    out = tmp_path / "grid"
    own = words(classes, out, tiny, "--steps", 2, "--vary", "mask_ratio=0.5,0.75")
    assert main(own) == 2
    assert "there is no sbatch here" in capsys.readouterr().err
    assert not list(out.glob("cells/*"))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("partitoin=gpu", "did you mean partition"),
        ("time=90", "its unit"),
        ("gpus_per_node=two", "a count"),
        ("gpu", "NAME=VALUE"),
    ],
)
def test_mistakes_in_options_of_jobs(word, said):
    with pytest.raises(ValueError, match=said):
        parse_slurm([word])
    with pytest.raises(ValueError, match=said):
        AblateConfig(data="x", vary=("lr=1,2",), slurm=(word,))
