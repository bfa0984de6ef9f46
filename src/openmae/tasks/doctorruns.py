"""The parts of `openmae doctor` that need processes: two ranks that talk to each other, a run of 20
steps, and one that is killed and continued. torch is only loaded in those.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openmae.engine.runfolder import gigabytes, read_jsonl
from openmae.tasks.doctorchecks import MEMORY, Finding

STEPS, EVERY = 20, 5
RANKS_SECONDS, RUN_SECONDS = 60, 240
_OURS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Processes:
    """Processes of the doctor, none of which outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._all: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """Python with some words; its output goes to NAME.log in the folder."""
        environment = {k: v for k, v in os.environ.items() if k not in _OURS}
        environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TERM": "dumb"}
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.folder,
            )
        self._all.append(process)
        return process

    def last_words(self, name: str) -> str:
        """The last line that a process printed."""
        text = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:200] if lines else "it said nothing"

    def end(self) -> None:
        """Kill what is left, and wait for it."""
        for process in self._all:
            if process.poll() is None:
                process.kill()
            process.wait()

    @contextlib.contextmanager
    def ending(self) -> Iterator[Processes]:
        """As a context."""
        try:
            yield self
        finally:
            self.end()


def ranks(processes: Processes) -> tuple[dict[str, Any], list[Finding]]:
    """(what torch sees, findings) of two processes that reduce over all."""
    words = ["-m", "openmae.tasks.doctorranks", str(processes.folder)]
    started = [processes.start(f"rank_{r}", [*words, str(r)]) for r in range(2)]
    ended = [_wait(process, RANKS_SECONDS) for process in started]
    said = [_json(processes.folder / f"rank_{r}.json") for r in range(2)]
    if not all(said):
        rank = 0 if not said[0] else 1
        code = ended[rank]
        words_of = processes.last_words(f"rank_{rank}")
        if code is not None and code < 0:
            words_of = f"killed by signal {-code}"
        text = "no answer in time" if code is None else words_of
        sees = said[1 - rank].get("sees", {})
        fix = f"Try: {sys.executable} -c 'import torch'"
        return sees, [Finding("torch", "FAILED", f"rank {rank}: {text}", fix)]
    sees = said[0]["sees"]
    return sees, [_torch(sees), *_gpus(sees), _gloo(said), *_nccl(said)]


def _torch(sees: dict[str, Any]) -> Finding:
    built = f"CUDA {sees['cuda']}" if sees["cuda"] else "CPU only"
    text = f"{sees['torch']}, {built}, {sees['capability']}"
    driver = Path("/proc/driver/nvidia/version").exists()
    if driver and not sees["gpus"]:
        fix = "Install the torch that fits the driver: https://pytorch.org/get-started/locally"
        return Finding("torch", "FAILED", f"{text}: there is a GPU driver, torch sees no GPU", fix)
    return Finding("torch", "ok", text)


def _gpus(sees: dict[str, Any]) -> list[Finding]:
    found = []
    for number, (name, total, free) in enumerate(sees["gpus"]):
        text = f"{name}, {gigabytes(free)} of {gigabytes(total)} free"
        busy = free < total / 2
        fix = "Another process holds it: nvidia-smi" if busy else ""
        found.append(Finding(f"gpu {number}", "warning" if busy else "ok", text, fix, MEMORY))
    none = "MPS" if sees["mps"] else "none: runs go to the CPU"
    return found or [Finding("gpu", "ok", none)]


def _gloo(said: list[dict[str, Any]]) -> Finding:
    first, second = (s["gloo"] for s in said)
    if "error" not in first and "error" not in second:
        return _agreement("gloo", first, second)
    error = first.get("error", second.get("error"))
    loopback = [s.get("gloo lo", {"error": ""}) for s in said]
    if all("error" not in s for s in loopback):
        fix = "export GLOO_SOCKET_IFNAME=lo on one machine, or the name of its network card"
        return Finding("gloo", "warning", f"works over lo only. Else {error}", fix)
    return Finding("gloo", "FAILED", str(error), "ip link set lo up; a firewall may block ports")


def _nccl(said: list[dict[str, Any]]) -> list[Finding]:
    answers = [s["nccl"] for s in said if "nccl" in s]
    if not answers:
        return []
    errors = [a["error"] for a in answers if "error" in a]
    if errors:
        fix = "NCCL_DEBUG=INFO shows why; NCCL_P2P_DISABLE=1 often helps in containers"
        return [Finding("nccl", "FAILED", errors[0], fix)]
    return [_agreement("nccl", answers[0], answers[-1])]


def _agreement(name: str, first: dict[str, Any], second: dict[str, Any]) -> Finding:
    if first["sha256"] != second["sha256"]:
        return Finding(name, "FAILED", "two ranks have different sums", "Please report this")
    text = f"equal bits; vote {1e3 * first['vote_s']:.2f} ms, 4 MiB {1e3 * first['sum_s']:.1f} ms"
    return Finding(name, "ok", text)


def short_runs(processes: Processes, device: str) -> Iterator[Finding]:
    """A run of 20 steps on the device, then a killed and continued one on the CPU, whose bits must
    be those of one that was never killed.
    """
    whole = processes.start("whole", _command("whole", "cpu"))
    killed = processes.start("killed", _command("killed", "cpu"))
    caught = _kill_at_first_checkpoint(killed, processes.folder / "killed")
    again = processes.start("again", _command("killed", "cpu")) if caught else None
    codes = {"whole": _wait(whole, RUN_SECONDS)}
    if device != "cpu":
        codes["device"] = _wait(processes.start("device", _command("device", device)), RUN_SECONDS)
    name = "whole" if device == "cpu" else "device"
    yield _short(processes, name, codes[name], device)
    if not caught:
        text = "it ended before it could be killed"
        if killed.poll() not in (0, None):
            text = processes.last_words("killed")
        level: Any = "warning" if killed.poll() == 0 else "FAILED"
        yield Finding("kill -9", level, text, "Run openmae doctor again", 4)
        return
    assert again is not None
    yield _same_bits(processes, codes["whole"], _wait(again, RUN_SECONDS))


def _command(out: str, device: str) -> list[str]:
    words = f"pretrain digits --recipe digits --steps {STEPS} --save-every {EVERY} --log-every 1"
    more = f"--warmup-epochs 0 --keep 4 --workers 0 --device {device} --out {out}"
    return ["-m", "openmae", *words.split(), *more.split()]


def _kill_at_first_checkpoint(process: subprocess.Popen[bytes], run: Path) -> bool:
    """Whether SIGKILL reached the run between its first checkpoint and its end."""
    first, end = run / "checkpoints" / f"step_{EVERY:08d}", time.monotonic() + RUN_SECONDS
    while process.poll() is None and time.monotonic() < end:
        if first.exists():
            process.kill()
            break
        time.sleep(0.002)
    else:
        process.kill()
    return process.wait() < 0 and first.exists()


def _short(processes: Processes, name: str, code: int | None, device: str) -> Finding:
    if code != 0:
        text = "took too long" if code is None else processes.last_words(name)
        return Finding("20 steps", "FAILED", text, "Please report this", code or 1)
    rows = read_jsonl(processes.folder / name / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    if len(losses) < STEPS or any(v is None or not math.isfinite(v) for v in losses):
        return Finding("20 steps", "FAILED", "a loss is not finite", "--precision fp32", 6)
    early, late = (sum(part) / EVERY for part in (losses[:EVERY], losses[-EVERY:]))
    text = f"on {device}: loss {early:.4f} -> {late:.4f}"
    if late >= early:
        return Finding("20 steps", "FAILED", f"{text}: it does not fall", "Please report this", 6)
    return Finding("20 steps", "ok", text)


def _same_bits(processes: Processes, whole: int | None, again: int | None) -> Finding:
    if whole or again or whole is None or again is None:
        name = "whole" if whole != 0 else "again"
        return Finding("kill -9", "FAILED", processes.last_words(name), "Please report this", 4)
    for file in ("weights.safetensors", "optimizer.safetensors"):
        place = Path("checkpoints", f"step_{STEPS:08d}", file)
        one, two = ((processes.folder / run / place).read_bytes() for run in ("whole", "killed"))
        if one != two:
            text = f"continued after kill -9, but {file} differs from an unbroken run's"
            return Finding("kill -9", "FAILED", text, "Please report this", 4)
    said = (processes.folder / "again.log").read_text(encoding="utf-8", errors="replace")
    if "Continue" not in said:
        return Finding("kill -9", "FAILED", "it began anew", "Please report this", 4)
    return Finding("kill -9", "ok", f"continued at a checkpoint, {STEPS} steps, equal bits")


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit code; None when it took too long, and was killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
