"""What every result in benchmarks/results says about itself: machine, versions, commit, command."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from openmae.engine.device import environment

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("transformers", "lightly", "stable-pretraining")


def origin(device: torch.device) -> dict[str, Any]:
    """Machine, versions (of the peers as well, where they are installed), commit and command."""
    peers = {}
    for name in PEERS:
        try:
            peers[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            peers[name] = None
    changed = _git("status", "--porcelain", "-uno", "src", "benchmarks")
    return {
        "command": command(sys.argv),
        "machine": environment(device),
        "peer_versions": peers,
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len(changed.splitlines()),  # not committed when it ran
    }


def command(words: list[str]) -> str:
    """The command line, with paths below the repository relative to it and no others' folders."""
    shown = []
    for word in words[1:]:
        path = Path(word)
        if path.is_absolute():
            inside = path.resolve().is_relative_to(ROOT)
            word = str(path.resolve().relative_to(ROOT)) if inside else f"DIR/{path.name}"
        shown.append(word)
    return shlex.join(["python", f"benchmarks/{Path(words[0]).name}", *shown])


def summary(values: list[float]) -> dict[str, Any]:
    """Median, n, and spread (half of the interquartile range over the median; 0 below 4 values)."""
    median = statistics.median(values)
    spread = 0.0
    if len(values) >= 4:
        low, _, high = statistics.quantiles(values, n=4)
        spread = (high - low) / 2 / median
    return {"median_s": median, "n": len(values), "spread": spread, "all_s": values}


def write(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result as JSON; None writes nothing."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    return done.stdout.strip()
