"""What a run folder holds, read so that nothing in it can stop the page: a file that is missing,
torn or not what it should be is named, and the rest is shown. Reads only.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openmae.report.metricsfile import Metrics

_LARGEST = 8_000_000  # bytes read of a small file
_ROWS = 2000  # of anomalies and bad files that are kept
_KINDS = ("knn", "probe", "finetune", "segment", "detect", "evaluate")
_QUIET = 600.0  # seconds without a word, at least, before a run is said to be stalled
_STEP = re.compile(r"step_(\d{1,12})$")


@dataclass
class RunData:
    """A run as far as it could be read; `problems` says in words what could not."""

    path: Path
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    status: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=lambda: Metrics(Path(os.devnull)))
    anomalies: list[dict[str, Any]] = field(default_factory=list)
    restarts: list[dict[str, Any]] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    bad_count: int = 0
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkpoints: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    changed: float = 0.0  # time of the newest line or status

    @property
    def task(self) -> str:
        """The command that made it."""
        return str(self.config.get("task", "pretrain"))

    @property
    def total(self) -> int:
        """Steps of the whole run; 0 where that is not known."""
        for value in (self.status.get("total"), self.resolved.get("total_steps")):
            if isinstance(value, int) and value > 0:
                return value
        return 0

    @property
    def step(self) -> int:
        """How far it came."""
        told = self.status.get("step")
        return max(self.metrics.step, told if isinstance(told, int) else 0)


def read_run(
    path: Path, name: str, config: Mapping[str, Any] | None, metrics: Metrics | None = None
) -> RunData:
    """A run folder. `config` is what config.yaml says, None where it cannot be read; `metrics` of
    an earlier reading is brought up to date.
    """
    run = RunData(path, name)
    run.config = dict(config or {})
    resolved = run.config.pop("resolved", {})
    run.resolved = resolved if isinstance(resolved, dict) else {}
    if config is None:
        run.problems.append("config.yaml is missing or cannot be read: settings are unknown")
    run.config_text = _text(path / "config.yaml")
    for file in ("status.json", "environment.json", "results.json"):
        values = _json(path / file)
        if values is None and (file != "results.json" or (path / file).exists()):
            run.problems.append(f"{file} is missing or damaged")
        setattr(run, file.partition(".")[0], values or {})
    if metrics is None:
        metrics = Metrics(path / "metrics.jsonl")
    else:
        metrics.update()
    run.metrics = metrics
    if not metrics.lines:
        run.problems.append("metrics.jsonl has no rows yet: no curves")
    if metrics.torn:
        run.problems.append(f"{metrics.torn:,} lines of metrics.jsonl cannot be read: passed over")
    run.anomalies, _ = _rows(path / "anomalies.jsonl")
    run.restarts, _ = _rows(path / "restarts.jsonl")
    run.bad, run.bad_count = _rows(path / "bad_files.jsonl")
    run.scores = _scores(path)
    run.checkpoints = _checkpoints(path / "checkpoints")
    run.changed = max(_changed(path / n) for n in ("metrics.jsonl", "status.json"))
    return run


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""


def _json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(_text(path))
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The first rows of a .jsonl file, and how many lines it has, as far as it is read."""
    lines = [line for line in _text(path).splitlines() if line.strip()]
    rows = []
    for line in lines[:_ROWS]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows, len(lines)


def _scores(path: Path) -> dict[str, dict[str, Any]]:
    """Results of what was done with the run: name of the folder -> what it says."""
    found = {}
    for kind in _KINDS:
        for file in sorted(path.glob(f"{kind}-*/results.json"))[:50]:
            if values := _json(file):
                found[file.parent.name] = values
    return found


def _checkpoints(path: Path) -> list[int]:
    try:
        return sorted(int(m[1]) for n in os.listdir(path) if (m := _STEP.match(n)))
    except OSError:
        return []


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def state_of(run: RunData, now: float | None = None) -> tuple[str, str, str]:
    """How it is with a run: (one word, "" | "warn" | "bad", a sentence)."""
    word, reason = str(run.status.get("state", "")), str(run.status.get("reason") or "")
    where = f"at step {run.step:,}" + (f" of {run.total:,}" if run.total else "")
    again = "The same command again continues it."
    if word == "done":
        return "finished", "", f"Finished {where}."
    if word == "stopped":
        return "stopped", "warn", f"Stopped {where}: {reason or 'asked to'}. {again}"
    if word == "failed":
        name = "diverged" if run.status.get("exit_code") == 6 else "failed"
        return name, "bad", f"{name.capitalize()} {where}: {reason or 'no reason was written'}"
    if word != "running":
        return "unknown", "warn", f"status.json does not say how it is with this run; {where}."
    quiet = (time.time() if now is None else now) - run.changed
    if _gone(run):
        ended = f"Says that it runs, {where}, but its process is gone: it was killed. {again}"
        return "killed", "bad", ended
    if quiet > max(_QUIET, 20 * _interval(run)):
        return (
            "stalled?",
            "warn",
            f"Runs, {where}, but wrote nothing for {quiet / 60:,.0f} minutes.",
        )
    return "running", "", f"Running, {where}."


def _gone(run: RunData) -> bool:
    """Whether the process that wrote the status is certainly not there any more."""
    held = _text(run.path / ".lock")
    told = re.match(r"pid (\d{1,9}) on (\S+) ", held)
    if told is None or told[2] != os.uname().nodename:
        return False
    return Path("/proc/self").exists() and not Path("/proc", told[1]).exists()


def _interval(run: RunData) -> float:
    """Seconds between the last rows."""
    _, seconds = run.metrics.seconds()
    return float(seconds[-1] - seconds[-2]) if len(seconds) > 1 else 60.0


def marks_of(run: RunData) -> list[tuple[float, str]]:
    """Steps at which something was not as it should be, in words."""
    found = []
    skipped, steps = run.metrics.values("skipped"), run.metrics.steps("skipped")
    for step, count in zip(steps[skipped > 0], skipped[skipped > 0], strict=True):
        found.append((float(step), f"{count:.0f} steps skipped up to {step:,.0f}"))
    for row in run.anomalies:
        step = row.get("from") if row.get("what") == "Rolled back" else row.get("step")
        if isinstance(step, int) and _is_step(step) and row.get("what") in ("Spike", "Rolled back"):
            found.append((float(step), f"{row['what']}, step {step:,}"))
    for row in run.restarts:
        if _is_step(row.get("step")):
            found.append((float(row["step"]), f"continued at step {row['step']:,}"))
    return found


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
