"""The small run of these tests, started again and again through the fork server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmae.engine.runfolder import read_jsonl

STEPS, EVERY = 24, 3
SMALL = {
    "recipe": "digits",
    "steps": STEPS,
    "save_every": EVERY,
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "decoder_dim": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "batch_size": 16,
    "ema": 0.99,
    "workers": 0,
    "log_every": 1,
    "device": "cpu",
}


def command(out: Path, data: str = "digits", **more: Any) -> list[str]:
    """The words of the small run; a setting of None is left out."""
    settings = {k: v for k, v in {**SMALL, **more}.items() if v is not None}
    words = ["pretrain", data, "--out", str(out)]
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *(str(v) for v in (value if isinstance(value, tuple) else [value]))]
    return words


@dataclass
class Ended:
    """How a trial ended: exit code (negative: a signal) and what it printed."""

    code: int
    text: str


class Server:
    """The parent of all trials."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.trials = scratch, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forkserver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def start(self, argv: list[str], **more: Any) -> tuple[int, Path]:
        self.trials += 1
        log = self.scratch / f"trial-{self.trials}.log"
        return self.ask(argv=argv, log=str(log), **more)["pid"], log

    def wait(self, started: tuple[int, Path]) -> Ended:
        pid, log = started
        return Ended(self.ask(wait=pid)["code"], log.read_text(errors="replace"))

    def run(self, argv: list[str], **hooks: Any) -> Ended:
        """A whole trial; hooks as in forkserver._install."""
        return self.wait(self.start(argv, hooks=hooks))

    def kill_after(self, argv: list[str], delay: float) -> Ended:
        """A trial that gets SIGKILL after some seconds, unless it ended before."""
        started = self.start(argv)
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.kill(started[0], signal.SIGKILL)  # a zombie until it is waited for: never another's
        return self.wait(started)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@contextlib.contextmanager
def server(scratch: Path) -> Iterator[Server]:
    """A fork server that has been through a trial once."""
    made = Server(scratch)
    try:
        modules = scratch / "modules"
        started = made.start(command(scratch / "warm"), modules=str(modules))
        ended = made.wait(started)
        assert ended.code == 0, ended.text
        made.ask(warm=str(modules))
        yield made
    finally:
        made.close()


def checkpoints(out: Path) -> list[str]:
    """Names in checkpoints/, hidden ones too."""
    folder = out / "checkpoints"
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def final(out: Path, step: int = STEPS) -> tuple[bytes, bytes]:
    """Weights (with averages and their counter) and optimizer state of the last checkpoint."""
    folder = out / "checkpoints" / f"step_{step:08d}"
    return (folder / "weights.safetensors").read_bytes(), (
        folder / "optimizer.safetensors"
    ).read_bytes()


def losses(out: Path) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of every step that was logged."""
    rows = read_jsonl(out / "metrics.jsonl")
    return [(r["step"], r["loss"], r["grad_norm"]) for r in rows if "loss" in r]


def status(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "status.json").read_text())
    return found


def left_over(out: Path) -> list[str]:
    """Temporary files and folders anywhere in a run."""
    return sorted(str(p.relative_to(out)) for p in out.rglob(".tmp-*"))


def assert_same_run(out: Path, whole: Path) -> None:
    """The run ended as the unbroken one did, to the bit, and left nothing lying about."""
    assert final(out) == final(whole), "final weights, averages or moments differ"
    assert losses(out) == losses(whole), "the metrics differ"
    assert left_over(out) == []
    found = status(out)
    assert (found["state"], found["step"], found["exit_code"]) == ("done", STEPS, 0)
    assert checkpoints(out) == checkpoints(whole)
    first, second = (json.loads((p / "results.json").read_text()) for p in (out, whole))
    assert first == second
    assert (out / "encoder.safetensors").read_bytes() == (
        whole / "encoder.safetensors"
    ).read_bytes()
