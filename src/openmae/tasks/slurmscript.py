"""The text of a SLURM job: pure functions of the settings, every word quoted for the shell.

What it relies on: SLURM sends SIGUSR1 to the processes of the job's step `grace` seconds before the
limit; torchrun, told so, passes it on to its ranks; the run saves, stops at a step that all ranks
share and says so in status.json (torchrun turns every exit code into 1).
"""

from __future__ import annotations

import shlex
from pathlib import Path

from openmae import __version__
from openmae.config.slurm import SlurmConfig

MARK = "# Written by openmae slurm"
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
PORTS = (10_000, 20_000)
"""First port and how many, by the job's number: below those that systems give to clients."""

_TOLD = """told() {  # one value of status.json, as this job wrote it; empty when there is none
    python3 - "$status" "$started" "$1" <<'PYTHON'
import json, os.path, sys
path, started, name = sys.argv[1:]
try:
    with open(os.path.expanduser(path), encoding="utf-8") as file:
        said = json.load(file)
    print(said[name] if said["time"] >= float(started) else "")
except (OSError, ValueError, LookupError, TypeError):
    print("")
PYTHON
}
"""

_AGAIN = """again=no
case "$(told exit_code):$(told reason)" in
    75:*STOP\\ file* | 75:*SIGINT*) echo "stopped as asked: sbatch the script to go on" ;;
    75:*) again=yes ;;
    0:*) code=0 ;;
    [1-9]*) code=$(told exit_code); echo "ended with code $code: $(told reason)" >&2 ;;
esac
if [[ $again == yes && $(told step) == "$before" ]]; then
    echo "no step was made in this job: not queued again" >&2
    again=no
fi
"""


def script(config: SlurmConfig, task: str, folder: str | None) -> str:
    """The whole script.

    Args:
        task: of the command inside.
        folder: its run folder as it was typed, where the run can be continued; None: it is run
            once.
    """
    parts = ["\n".join(_directives(config, task, folder)), _environment(config)]
    launched = _launch(config)
    command = " ".join(_quoted(word, config.array) for word in config.command)
    # A node whose ranks have stopped must not take with it the one that still writes.
    wait = f"--kill-on-bad-exit=0 --wait={config.grace}"
    if folder is None:
        parts.append(f"{launched[0]}exec srun {wait} {launched[1]} {command}\n")
        return "\n".join(parts)
    status = _quoted(f"{folder.rstrip('/')}/status.json", config.array)
    parts += [
        f"status={status}\nstarted=0\n" + _TOLD,
        "before=$(told step)\nstarted=$(date +%s)\ncode=0\n",
        f"{launched[0]}srun {wait} {launched[1]} {command} || code=$?\n",
        _AGAIN + _requeue(config),
        'exit "$code"\n',
    ]
    return "\n".join(parts)


def _directives(config: SlurmConfig, task: str, folder: str | None) -> list[str]:
    name = config.job_name or _name(folder or task)
    rows: dict[str, object] = {
        "job-name": name,
        "nodes": config.nodes,
        "ntasks-per-node": 1,
        "time": config.time,
        "open-mode": "append",
        "output": "%x-%A_%a.log" if config.array else "%x-%j.log",
    }
    if folder is not None:
        rows["signal"] = f"USR1@{config.grace}"
    if config.gpus_per_node:
        rows["gpus-per-node"] = config.gpus_per_node
    if config.cpus_per_gpu:
        rows["cpus-per-task"] = config.cpus_per_gpu * config.ranks_per_node
    for key, value in (
        ("partition", config.partition), ("account", config.account), ("array", config.array)
    ):  # fmt: skip
        if value is not None:
            rows[key] = value
    lines = [f"#SBATCH --{key}={value}" for key, value in rows.items()]
    lines.append("#SBATCH --requeue" if config.requeue else "#SBATCH --no-requeue")
    lines += [f"#SBATCH --{option}" for option in config.sbatch]
    return ["#!/bin/bash", f"{MARK} {__version__}; start it with: sbatch FILE", *lines]


def _name(folder: str) -> str:
    """A job's name from a folder's: only letters that sbatch takes without quotes."""
    last = Path(folder.replace("%a", "")).name
    return "".join(c if (c.isalnum() and c.isascii()) or c in "._-" else "-" for c in last) or "mae"


def _environment(config: SlurmConfig) -> str:
    """Strictness, then the Python environment, whose scripts are not as strict."""
    lines = ["", "set -euo pipefail"]
    if config.conda:
        lines += [
            "set +u",
            'source "$(conda info --base)/etc/profile.d/conda.sh"',
            f"conda activate {shlex.quote(config.conda)}",
            "set -u",
        ]
    if config.venv:
        lines += ["set +u", f"source {shlex.quote(config.venv.rstrip('/') + '/bin/activate')}"]
        lines += ["set -u"]
    if config.cpus_per_gpu:
        lines.append('export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"  # srun does not inherit it')
    threads = 1 if config.gpus_per_node else config.cpus_per_gpu or 1
    lines.append(f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{threads}}}"')
    return "\n".join([*lines, ""])


def _launch(config: SlurmConfig) -> tuple[str, str]:
    """(lines before, words behind srun): torchrun on each node, or the one process."""
    if config.nodes * config.ranks_per_node == 1:
        return "", "python3 -m openmae"
    first, count = PORTS
    before = f"""nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${{nodes%%$'\\n'*}}
port=$(({first} + SLURM_JOB_ID % {count}))
options=(
    --nnodes={config.nodes} --nproc-per-node={config.ranks_per_node}
    --rdzv-backend=c10d --rdzv-endpoint="$head:$port"
    --rdzv-id="$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}"
    --max-restarts={config.max_restarts}
    --signals-to-handle={SIGNALS}
)
help=$(torchrun --help)
if [[ $help == *--shutdown-timeout* ]]; then  # newer ones: how long ranks may take to save
    options+=(--shutdown-timeout={max(config.grace - 30, config.grace // 2)})
fi

"""
    return before, 'torchrun "${options[@]}" -m openmae'


def _quoted(word: str, array: str | None) -> str:
    """A word for the shell; %a of an array becomes the number of the job."""
    if not array or "%a" not in word:
        return shlex.quote(word)
    parts = [shlex.quote(part) if part else "" for part in word.split("%a")]
    return '"$SLURM_ARRAY_TASK_ID"'.join(parts)


def _requeue(config: SlurmConfig) -> str:
    if not config.requeue:
        return (
            'if [[ $again == yes ]]; then echo "saved: sbatch the script to go on"; code=75; fi\n'
        )
    return """if [[ $again == yes ]]; then
    echo "saved at step $(told step): queued again"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
"""
