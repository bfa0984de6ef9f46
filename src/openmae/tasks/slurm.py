"""`openmae slurm`: the script of a SLURM job. Imports no torch: it runs on a login node."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from openmae.config.base import Options
from openmae.config.slurm import SlurmConfig
from openmae.engine.log import say
from openmae.engine.runfolder import Results
from openmae.engine.textfile import write_text
from openmae.errors import StorageError, UsageError
from openmae.tasks.slurmscript import MARK, script

TRAINS = ("pretrain", "tokenize", "finetune", "detect", "segment")
SPREADS = (
    *(*TRAINS, "probe", "knn", "embed", "evaluate", "predict"),
    *("detect evaluate", "detect predict", "segment evaluate", "segment predict"),
)
"""What can use several ranks."""


def run(config: SlurmConfig, options: Options) -> Results:
    """Check the command inside, then write the script; a dry run prints it instead.

    Raises:
        UsageError: the command would be refused, or does not go with the job.
        StorageError: the file is there and not ours, or cannot be written.
    """
    task, folder = _checked(config, options)
    text = script(config, task, folder)
    path = Path(config.out).expanduser()
    _require_ours(path)
    if options.dry_run:
        print(text, end="")
        say("Dry run", "nothing was written")
        return Results({"script": text, "n": config.nodes, "dry_run": True})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        path.chmod(path.stat().st_mode | 0o100)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}. Give another -o"
        ) from None
    ranks = config.nodes * config.ranks_per_node
    kind = "GPUs" if config.gpus_per_node else "CPU ranks"
    say("Wrote", f"{path}: {config.nodes} nodes x {config.ranks_per_node} {kind}, {config.time}")
    if folder is not None and config.requeue:
        say("", f"saves {config.grace} s before the limit and queues itself again until done")
    say("Next", f"sbatch {shlex.quote(str(path))}")
    if folder is not None:
        say("", f"touch {shlex.quote(f'{folder}/STOP')} saves and stops for good")
    return Results({"script": str(path), "ranks": ranks, "task": task, "n": config.nodes})


def _checked(config: SlurmConfig, options: Options) -> tuple[str, str | None]:
    """The task of the command, and its run folder where it is one that can be continued."""
    if options.check is None:
        raise UsageError("openmae slurm needs the command line's own check of words")
    words = [w.replace("%a", config.first_of_array) for w in config.command]
    try:
        task, inner = options.check(words)
    except UsageError as error:
        raise UsageError(f"in the command behind --: {error}") from None
    if task in ("slurm", "quickstart"):
        raise UsageError(f"{task} is no command for a job. Give pretrain, finetune or another")
    ranks = config.nodes * config.ranks_per_node
    if task not in SPREADS and ranks > 1:
        raise UsageError(
            f"{task} uses one process: {ranks} are asked for. Give --nodes 1 --gpus-per-node 1"
        )
    if getattr(inner, "gpus", None) is not None:
        raise UsageError(
            "--gpus stands in the command behind --. Leave it out: --nodes and --gpus-per-node say"
            " it"
        )
    _require_device(config, getattr(inner, "device", "auto"))
    out: str | None = getattr(inner, "out", None)
    if task in TRAINS and out is None:
        raise UsageError(
            f"the {task} behind -- has no --out: the job must know its run folder. Add --out"
            " runs/NAME"
        )
    if config.array and "%a" not in _value_of("--out", config.command):
        raise UsageError(
            f"--array {config.array}: every job would use the same --out. Put %a in it: --out"
            " runs/NAME-%a"
        )
    return task, (_value_of("--out", config.command) or out) if task in TRAINS else None


def _require_device(config: SlurmConfig, device: str) -> None:
    if config.gpus_per_node and device == "cpu":
        raise UsageError(
            "--device cpu stands in the command behind --, but the job asks for GPUs. Give"
            " --gpus-per-node 0, or leave --device out"
        )
    if not config.gpus_per_node and device.startswith("cuda"):
        raise UsageError(
            f"--device {device} stands in the command behind --, but --gpus-per-node is 0. Give"
            " the GPUs of a node"
        )


def _value_of(flag: str, words: Sequence[str]) -> str:
    """The last value of an option among words, typed as two or as one with "="; else empty."""
    value = ""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in (flag, "-o"):
            value = following
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
    return value


def _require_ours(path: Path) -> None:
    """Raise StorageError where another file would be lost."""
    if path.is_dir():
        raise StorageError(f"{path} is a folder. Give a file with -o")
    if not os.path.lexists(path):
        return
    try:
        head = path.read_text(encoding="utf-8", errors="replace")[:200]
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}. Give another -o") from None
    if MARK not in head:
        raise StorageError(f"{path} was not written by openmae slurm: refusing. Give another -o")
