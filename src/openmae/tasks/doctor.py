"""`openmae doctor`: is all well with this machine and this installation? Nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from openmae.config.base import Options
from openmae.config.doctor import DoctorConfig
from openmae.engine.log import say
from openmae.engine.runfolder import Results
from openmae.engine.textfile import write_text
from openmae.errors import StorageError, UsageError
from openmae.tasks import doctorchecks as checks
from openmae.tasks import doctorruns as runs
from openmae.tasks.doctorchecks import STORAGE, Finding

HEAD = "openmae doctor"
_TEMPORARY = ".openmae-doctor-"
_STALE = 3600.0  # seconds: what a killed doctor left
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def run(config: DoctorConfig, options: Options) -> Results:
    """Check everything; exit code 0 when nothing failed, else that of what failed first.

    Raises:
        UsageError: no such device.
        StorageError: the folder is a file, or the report would replace another file.
    """
    out = _place(Path(config.out).expanduser())
    report = None if config.report is None else Path(config.report).expanduser()
    if not _DEVICE.fullmatch(config.device):
        raise UsageError(f"--device {config.device}: should be auto, cpu, cuda, cuda:N or mps")
    if report is not None:
        _require_ours(report)
    if options.dry_run:
        say("Dry run", f"would try {out}, memory, network, devices and two ranks")
        say("", "" if config.quick else "and train 20 steps, killed once; nothing was written")
        return Results({"n": 0, "dry_run": True})
    found: list[Finding] = []
    start = time.monotonic()
    with _interruptible():
        for finding in _findings(config, out):
            found.append(finding)
            _show(finding)
    seconds = time.monotonic() - start
    text = block(found, seconds)
    print(f"\nFor a bug report (no names of users, homes or hosts):\n\n{text}")
    if report is not None:
        _write(report, text)
    failed = [f for f in found if f.level == "FAILED"]
    warnings = sum(f.level == "warning" for f in found)
    words = f"{len(failed)} failed, {warnings} warnings, {len(found)} lines, {seconds:.0f} s"
    say("Failed" if failed else "Done", words)
    values: dict[str, Any] = {
        "n": len(found),
        "failed": len(failed),
        "warnings": warnings,
        "seconds": seconds,
        "checks": [
            {"name": f.name, "level": f.level, "text": anonymous(f.text), "fix": anonymous(f.fix)}
            for f in found
        ],
    }
    return Results(values, None, failed[0].code if failed else 0)


def _findings(config: DoctorConfig, out: Path) -> Iterator[Finding]:
    yield from checks.guarded("versions", checks.versions)
    for name, check in (
        ("cores", checks.cores), ("memory", checks.memory), ("shared mem", checks.shared_memory),
        ("open files", checks.open_files), ("network", checks.network),
    ):  # fmt: skip
        yield from checks.guarded(name, check)
    try:
        with _scratch(out) as folder:
            yield from checks.guarded("disk", lambda: checks.disk(folder), STORAGE)
            yield from _with_processes(config, folder)
    except _RefusedError as error:
        yield Finding("disk", "FAILED", str(error), "Another --out, or ask who owns it", STORAGE)
        with _scratch(Path(tempfile.gettempdir())) as folder:
            yield from _with_processes(config, folder)


def _with_processes(config: DoctorConfig, folder: Path) -> Iterator[Finding]:
    with runs.Processes(folder).ending() as processes:
        sees, found = runs.ranks(processes)
        yield from found
        if config.quick or not sees:
            return
        device = config.device
        if device == "auto":
            device = "cuda" if sees["gpus"] else "cpu"
        yield from runs.short_runs(processes, device)


class _RefusedError(Exception):
    """The folder of runs cannot be written."""


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder of ours that is gone afterwards, however this ends; old ones go too."""
    for old in parent.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _STALE:
                shutil.rmtree(old, ignore_errors=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=parent)).resolve()
    except OSError as error:
        raise _RefusedError(f"{parent} cannot be written: {error.strerror or error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the doctor as Ctrl-C does: its processes and its folder go first."""

    def handle(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, handle) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _place(path: Path) -> Path:
    """The folder of runs, or the nearest one above it that is there."""
    while not path.is_dir():
        if os.path.lexists(path):
            raise StorageError(f"{path} is a file. Give a folder with --out")
        path = path.parent
    return path


def _require_ours(path: Path) -> None:
    """Raise StorageError where another file would be lost."""
    if path.is_dir():
        raise StorageError(f"{path} is a folder. Give a file with --report")
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent} does not exist. Give another --report")
    if path.exists() and not path.read_bytes()[:80].startswith(f"```text\n{HEAD}".encode()):
        raise StorageError(f"{path} is another file: refusing. Give another --report")


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from None
    say("Wrote", str(path))


def _show(finding: Finding) -> None:
    print(f"{finding.level:<8} {finding.name:<12} {finding.text}", flush=True)
    if finding.fix and finding.level != "ok":
        print(f"{'':<8} {'':<12} fix: {finding.fix}", flush=True)


def block(found: list[Finding], seconds: float) -> str:
    """What to paste into an issue: every line, without names."""
    lines = [f"{HEAD}, {platform.system()} {platform.machine()}, {seconds:.0f} s"]
    for finding in found:
        lines.append(f"{finding.level:<8} {finding.name:<12} {finding.text}")
    return "\n".join(["```text", *(anonymous(line) for line in lines), "```", ""])


def anonymous(text: str) -> str:
    """A text without home folders, which become ~, user names and the name of the host."""
    for home in {str(Path.home()), os.environ.get("HOME", ""), os.path.expanduser("~")}:
        if len(home) > 1:
            text = re.sub(re.escape(home) + r"(?![\w-])", "~", text)
    text = re.sub(r"/(?:home|Users)/[^/\s:,'\"]+", "~", text)
    names = {os.environ.get(k, "") for k in ("USER", "LOGNAME", "SUDO_USER")}
    for name in sorted(names - {"root"}, key=len, reverse=True):
        if len(name) > 2:
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "USER", text)
    host = socket.gethostname()
    if len(host) < 2 or host == "localhost":
        return text
    return re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", "HOST", text)
