"""How long a command takes to answer: help, a dry run, and every command's usage error.

Medians of n processes, in turn, after one of each that warms the file cache.

    python benchmarks/startup.py --repeats 7 --json out.json
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from PIL import Image

from openmae.config import TASKS

GOALS = {"openmae --help": 0.6, "openmae pretrain DATA --dry-run": 6.0}
"""Seconds on 2 cores."""
USAGE_ERROR = 2


def commands(folder: Path) -> dict[str, tuple[list[str], int]]:
    """What is shown -> (words, exit code)."""
    data = folder / "images"
    data.mkdir()
    rng = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(
            data / f"{i:02d}.png"
        )
    dry = ["pretrain", str(data), "--out", str(folder / "run"), "--dry-run"]
    found: dict[str, tuple[list[str], int]] = {
        "openmae --help": (["--help"], 0),
        "openmae --version": (["--version"], 0),
        "openmae pretrain --help": (["pretrain", "--help"], 0),
        "openmae pretrain DATA --dry-run": (dry, 0),
    }
    for task in TASKS:
        words = [*task.split(), "--no-such-option"]
        found[f"openmae {task} --no-such-option"] = (words, USAGE_ERROR)
    return found


def program() -> list[str]:
    """The command as it is installed beside this Python, or the module."""
    script = Path(sys.executable).parent / "openmae"
    return [str(script)] if script.exists() else [sys.executable, "-m", "openmae"]


def measure(repeats: int, only: str = "") -> dict[str, Any]:
    """Every command, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = {k: v for k, v in commands(Path(folder)).items() if only in k}
        times: dict[str, list[float]] = {name: [] for name in wanted}
        for number in range(repeats + 1):
            for name, (words, code) in wanted.items():
                began = time.perf_counter()
                done = subprocess.run([*program(), *words], capture_output=True, text=True)
                taken = time.perf_counter() - began
                if done.returncode != code:
                    raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stderr[-800:]}")
                if number:
                    times[name].append(taken)
    rows = [
        {"name": name, "goal_s": GOALS.get(name), **record.summary(taken)}
        for name, taken in times.items()
    ]
    return {
        "benchmark": "startup",
        **record.origin(torch.device("cpu")),
        "repeats": repeats,
        "program": Path(program()[0]).name if len(program()) == 1 else "python -m openmae",
        "rows": rows,
    }


def main() -> None:
    """Parse the words, measure, print and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="only commands that contain this")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = measure(args.repeats, args.only)
    for row in result["rows"]:
        goal = "" if row["goal_s"] is None else f"   goal {row['goal_s']} s"
        print(f"{row['name']:<44} {row['median_s']:6.2f} s{goal}")
    record.write(args.json, result)


if __name__ == "__main__":
    main()
