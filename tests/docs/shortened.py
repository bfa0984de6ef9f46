"""The command lines of the pages, made to run in the sandbox: as dry runs, or in seconds."""

from __future__ import annotations

import re
from pathlib import Path

from openmae.cli import NO_DRY_RUN
from openmae.config import command_of

_TRAIN = "--batch-size 4 --workers 0 --warmup-epochs 0"
_VIT = "--dim 16 --depth 12 --heads 2 --image-size 64 --patch-size 16"
_MAE = f"{_VIT} --decoder-dim 16 --decoder-depth 1 --decoder-heads 2"
_ONE = f"{_TRAIN} --steps 1"
SMALL = {
    "pretrain": f"{_TRAIN} --steps 2 {_MAE}",
    "tokenize": "--batch-size 4 --workers 0 --steps 1 --image-size 64 --patch-size 16 --codes 8",
    "finetune": f"{_ONE} --recipe small",
    "segment": f"{_ONE} --recipe tiny --image-size 32 --head-dim 16 --short-side 32",
    "detect": f"{_ONE} --recipe tiny --image-size 32 --pyramid-dim 8 --regions 8",
    "ablate": f"{_TRAIN} {_MAE} --budget images=4 --seeds 1 --jobs 1",
    "compare": f"{_TRAIN} {_VIT} --budget images=4 --seeds 1 --jobs 1",
    "benchmark": f"--steps 1 --batch-size 2 --workers 0 {_MAE}",
    "quickstart": "--epochs 1",
    "doctor": "--quick",
    "demo": "--port 0",
    "reconstruct": "--max-images 2",
}
"""Command -> options that make it short."""

COSTS = {"--steps", "--batch-size", "--warmup-epochs", "--gpus", "--image-size", "--budget"}
COSTS |= {"--seeds", "--codes", "--workers", "--max-images", "--short-side", "--pyramid-dim"}
COSTS |= {"--regions"}
"""What a line says of these gives way; the rest that it says stays."""


def _pairs(text: str) -> list[list[str]]:
    return [option.split() for option in re.findall(r"--[^ ]+(?: (?!--)[^ ]+)*", text)]


def inserted(words: list[str], more: list[str]) -> list[str]:
    """Options at the end, or before the words of another command."""
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], *more, *words[end:]]


def without(words: list[str], name: str) -> list[str]:
    """The words without an option and its values."""
    if name not in words:
        return words
    first = words.index(name)
    last = first + 1
    while last < len(words) and not words[last].startswith("--"):
        last += 1
    return words[:first] + words[last:]  # positional words never follow an option on the pages


def _heads(words: list[str]) -> list[str]:
    """What files smaller than any published one do not tell."""
    return ["--heads", "2"] if any(word.endswith(".pth") for word in words) else []


def short(words: list[str]) -> list[str]:
    """The command at the smallest size that keeps its meaning."""
    more: list[str] = []
    task = command_of(words) or ""
    ranks = "--gpus" in words and task == "pretrain"
    if task == "compare" and "--methods" not in words:  # of runs that are there: trains nothing
        return words
    options = _pairs(SMALL.get(task, ""))
    if task == "pretrain" and "--method" in words:  # others than MAE have no decoder
        options = [option for option in options if not option[0].startswith("--decoder")]
    if task == "pretrain" and "digits" in words:  # of 8 px
        options += [["--image-size", "8"], ["--patch-size", "2"]]
    if task == "pretrain" and any("teacher=" in word for word in words):  # has 16 x 16 patches
        options.append(["--image-size", "256"])
    options = list({option[0]: option for option in options}.values())  # the last one holds
    for option in options:
        if option[0] == "--port" and "--static" in words:
            continue
        if option[0] in COSTS or option[0] not in words:
            words, more = without(words, option[0]), [*more, *option]
    more += _heads(words)
    if "--steps" in more:
        words = without(words, "--epochs")
    if ranks:
        words, more = without(words, "--gpus"), [*more, "--gpus", "2", "--device", "cpu"]
    return inserted(words, more)


def place(words: list[str]) -> Path | None:
    """Where a command that trains puts its run."""
    task = command_of(words)
    if task not in ("pretrain", "tokenize", "finetune", "segment", "detect"):
        return None
    if "--out" in words:
        return Path(words[words.index("--out") + 1])
    first, second, *_ = [Path(word) for word in words[words.index(task) + 1 :]] + [Path()]
    if task == "pretrain":
        return Path("runs", first.name)
    return (
        Path("runs", f"tokenizer-{first.name}")
        if task == "tokenize"
        else first / f"{task}-{second.name}"
    )


def dry(words: list[str]) -> list[str]:
    """The command with --dry-run, where it has that and asks for more than help."""
    task = command_of(words)
    words = [*words, *_heads(words)]
    if task is None or task in NO_DRY_RUN or {"--help", "--dry-run"} & set(words):
        return words
    if "--gpus" in words and task != "slurm":  # ranks come before the look at the words
        words = without(words, "--gpus")
    if task == "pretrain" and "--init" in words:  # what it continues is smaller than recipes
        words = [*words, *["--dim", "16", "--depth", "12", "--heads", "2"]]
    return inserted(words, ["--dry-run"])
