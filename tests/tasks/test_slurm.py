"""The script of a SLURM job: what it holds, what bash makes of it, and what it does when run with
stand-ins for srun, torchrun and scontrol.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

import openmae
from openmae.cli import main
from openmae.config.slurm import time_limit
from openmae.errors import StorageError, UsageError

RUN = ["pretrain", "my photos", "--recipe", "laptop", "--out", "runs/x"]
SRUN = """#!/bin/bash
printf '%s\\n' "$@" > srun.txt
env > env.txt
cp next.json "$RUN_FOLDER"/status.json 2>/dev/null
exit "$(cat srun.code)"
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then printf '%s\\n' node7 node8; else echo "$@" > requeued.txt; fi
"""
TORCHRUN = """#!/bin/bash
echo "usage: torchrun [--max-restarts N] [--shutdown-timeout S]"
"""


def write(*options: str, command: list[str] | None = None) -> str:
    assert main(["slurm", *options, "--", *(RUN if command is None else command)]) == 0
    return Path("job.sh").read_text()


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with the stand-ins and the run folder that a job's run would write."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("torchrun", TORCHRUN)):
        Path("bin").mkdir(exist_ok=True)
        Path("bin", name).write_text(text)
        Path("bin", name).chmod(0o755)
    Path("runs/x").mkdir(parents=True)
    return tmp_path


def run_job(code: int = 0, said: dict | None = None, **more: str) -> subprocess.CompletedProcess:
    """Run the script; `said` is what the run leaves in status.json."""
    Path("srun.code").write_text(str(code))
    if said is not None:
        Path("next.json").write_text(json.dumps({"time": time.time() + 5, **said}, indent=1))
    environment = {
        **os.environ,
        "PATH": f"{Path('bin').resolve()}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "RUN_FOLDER": "runs/x",
        **more,
    }
    environment.pop("OMP_NUM_THREADS", None)
    return subprocess.run(
        ["bash", "job.sh"], env=environment, capture_output=True, text=True, timeout=60
    )


def stopped(reason: str = "SIGUSR1", step: int = 40) -> dict:
    return {"state": "stopped", "step": step, "reason": reason, "exit_code": 75, "resumable": True}


def test_directives_and_bash_reads_it(here):
    text = write(
        "--nodes", "2", "--gpus-per-node", "8", "--time", "2-12:00:00", "--cpus-per-gpu", "12",
        "--partition", "big", "--account", "me",
        "--venv", "an env", "--sbatch", "qos=high", "mem=0",
    )  # fmt: skip
    assert subprocess.run(["bash", "-n", "job.sh"], check=False).returncode == 0
    assert os.access("job.sh", os.X_OK)
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    expected = {
        "job-name=x", "nodes=2", "ntasks-per-node=1", "gpus-per-node=8", "time=2-12:00:00",
        "cpus-per-task=96", "partition=big", "account=me", "signal=USR1@120", "requeue",
        "qos=high", "mem=0", "open-mode=append", "output=%x-%j.log",
    }  # fmt: skip
    told = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert told == expected
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(i for i, line in enumerate(lines) if line.startswith("#SBATCH")) < first_command
    assert lines[first_command] == "set -euo pipefail"
    assert "source 'an env/bin/activate'" in lines


def test_what_srun_is_told(here):
    write("--nodes", "2", "--gpus-per-node", "4", "--cpus-per-gpu", "3")
    ended = run_job(0, {"step": 60, "exit_code": 0, "state": "done"}, SLURM_CPUS_PER_TASK="12")
    assert ended.returncode == 0, ended.stderr
    words = Path("srun.txt").read_text().splitlines()
    at = words.index("torchrun")
    assert words[:at] == ["--kill-on-bad-exit=0", "--wait=120"]
    assert words[at + 1 : words.index("-m")] == [
        "--nnodes=2", "--nproc-per-node=4", "--rdzv-backend=c10d",
        f"--rdzv-endpoint=node7:{10_000 + 4711}", "--rdzv-id=4711-0", "--max-restarts=3",
        "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "--shutdown-timeout=90",
    ]  # fmt: skip
    assert words[words.index("-m") :] == ["-m", "openmae", *RUN]
    environment = Path("env.txt").read_text().splitlines()
    assert "OMP_NUM_THREADS=1" in environment
    assert "SRUN_CPUS_PER_TASK=12" in environment
    assert not Path("requeued.txt").exists()


def test_a_torchrun_without_the_newer_option(here):
    write("--gpus-per-node", "2")
    Path("bin/torchrun").write_text("#!/bin/bash\necho usage\n")
    assert run_job(0, {"step": 1, "exit_code": 0}).returncode == 0
    assert "shutdown" not in Path("srun.txt").read_text()


def test_one_process_needs_no_torchrun(here):
    write()
    Path("bin/torchrun").write_text("#!/bin/bash\nexit 9\n")
    assert run_job(0, {"step": 1, "exit_code": 0}).returncode == 0
    words = Path("srun.txt").read_text().splitlines()
    assert words[2:] == ["python3", "-m", "openmae", *RUN]


def test_queued_again_until_done(here):
    """torchrun's own code is 1 whatever happened: status.json decides."""
    write("--gpus-per-node", "2")
    ended = run_job(1, stopped(step=40))
    assert (ended.returncode, Path("requeued.txt").read_text()) == (0, "requeue 4711\n")
    assert "saved at step 40: queued again" in ended.stdout
    Path("requeued.txt").unlink()
    ended = run_job(1, stopped(step=80), SLURM_RESTART_COUNT="1")
    assert Path("requeued.txt").exists()
    assert "--rdzv-id=4711-1" in Path("srun.txt").read_text()
    Path("requeued.txt").unlink()
    assert run_job(0, {"step": 100, "exit_code": 0, "state": "done"}).returncode == 0
    assert not Path("requeued.txt").exists()


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (stopped("STOP file"), 1, "stopped as asked"),
        (stopped("SIGINT"), 1, "stopped as asked"),
        ({"step": 9, "exit_code": 6, "reason": "diverged", "state": "failed"}, 6, "ended with"),
        ({"step": 9, "exit_code": None, "state": "running", "reason": ""}, 1, ""),
        ({**stopped(), "time": 5.0}, 1, ""),  # of an earlier job: this one never got that far
        (None, 1, ""),
    ],
)
def test_not_queued_again(here, said, code, words):
    write("--gpus-per-node", "2")
    ended = run_job(1, said)
    assert ended.returncode == code, ended.stderr
    assert words in ended.stdout + ended.stderr
    assert not Path("requeued.txt").exists()


def test_not_queued_again_without_progress(here):
    write("--gpus-per-node", "2")
    Path("runs/x/status.json").write_text(json.dumps({"time": 1, **stopped(step=40)}))
    ended = run_job(1, stopped(step=40))
    assert (ended.returncode, Path("requeued.txt").exists()) == (1, False)
    assert "no step was made" in ended.stderr


def test_without_requeue(here):
    assert "#SBATCH --no-requeue" in write("--no-requeue")
    ended = run_job(75, stopped())
    assert (ended.returncode, Path("requeued.txt").exists()) == (75, False)


def test_a_missing_scontrol_is_an_error_and_not_a_hang(here):
    write("--nodes", "2")
    Path("bin/scontrol").write_text("#!/bin/bash\nexit 3\n")
    assert run_job(0).returncode == 3
    assert not Path("srun.txt").exists()


def test_words_are_quoted(here):
    nasty = 'a\'b "c" $(touch owned) `touch owned`;*'
    write("--gpus-per-node", "2", command=["pretrain", nasty, "--out", "runs/x"])
    assert run_job(0, {"step": 1, "exit_code": 0}).returncode == 0
    assert nasty in Path("srun.txt").read_text().splitlines()
    assert not Path("owned").exists()


def test_an_array(here):
    command = ["pretrain", "p", "--seed", "%a", "--out", "runs/s %a", "--steps", "9"]
    text = write("--array", "0-2%1", command=command)
    assert "#SBATCH --array=0-2%1" in text
    assert "#SBATCH --output=%x-%A_%a.log" in text
    Path("runs/s 2").mkdir()
    ended = run_job(75, stopped(), SLURM_ARRAY_TASK_ID="2", RUN_FOLDER="runs/s 2")
    assert ended.returncode == 0, ended.stderr
    words = Path("srun.txt").read_text().splitlines()
    assert words[words.index("--seed") + 1] == "2"
    assert words[words.index("--out") + 1] == "runs/s 2"
    assert Path("requeued.txt").exists()


def test_other_tasks_run_once(here):
    text = write("--gpus-per-node", "2", command=["embed", "runs/x", "photos", "-o", "f.npz"])
    assert "exec srun" in text
    assert "signal=USR1" not in text
    assert "status.json" not in text
    assert run_job(3).returncode == 3


def test_the_same_script_again_but_no_other_file(here):
    write()
    write("--nodes", "2")
    Path("job.sh").write_text("#!/bin/bash\nyears of work\n")
    with pytest.raises(StorageError, match="refusing"):
        openmae.slurm("pretrain p --out runs/x")
    assert "years" in Path("job.sh").read_text()


def test_python_and_one_text(here, capsys):
    found = openmae.slurm("openmae pretrain 'my photos' --out runs/x", nodes=3, gpus_per_node=2)
    assert (found["ranks"], found["task"]) == (6, "pretrain")
    assert "pretrain 'my photos' --out runs/x" in Path("job.sh").read_text()
    with pytest.raises(UsageError, match="cannot be split"):
        openmae.slurm("pretrain 'my photos --out runs/x")
    capsys.readouterr()
    before = Path("job.sh").read_text()
    assert main(["slurm", "--nodes", "4", "--dry-run", "--", *RUN]) == 0
    said = capsys.readouterr().out
    assert said.startswith("#!/bin/bash")
    assert "--nnodes=4" in said
    assert Path("job.sh").read_text() == before


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("90:30", 5430), ("24:00:00", 86_400), ("2-12", 216_000), ("1-0:30", 88_200),
     ("1-01:01:01", 90_061)],
)  # fmt: skip
def test_times_of_slurm(text, seconds):
    assert time_limit(text) == seconds
    for wrong in ("", "1h", "1:2:3:4", "-5", "1-"):
        with pytest.raises(ValueError, match="a time of SLURM"):
            time_limit(wrong)
