"""What `openmae doctor` finds out about a machine without torch: each check is a function that
returns findings and cannot raise.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import re
import resource
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openmae.engine.runfolder import gigabytes

MIB = 2**20
STORAGE, MEMORY = 4, 5  # exit codes of what failed
_SLOW_DISK = 50e6  # bytes a second: a checkpoint of ViT-L (3.9 GB) takes 80 s
_LITTLE_DISK, _LITTLE_MEMORY, _LITTLE_SHM = 5e9, 2e9, 1e9


@dataclass(frozen=True)
class Finding:
    """A line of the doctor: `code` is the exit code if it failed."""

    name: str
    level: Literal["ok", "warning", "FAILED"]
    text: str
    fix: str = ""
    code: int = 1


def guarded(name: str, check: Callable[[], list[Finding]], code: int = 1) -> list[Finding]:
    """The findings of a check; an error inside of it is a finding too."""
    try:
        return check()
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return [Finding(name, "FAILED", text, "Please report this with the block below", code)]


def versions() -> list[Finding]:
    """Of Python, of this package and of what it needs, against the lowest that it runs with."""
    found = [
        f"Python {sys.version.split()[0]}",
        f"openmae {_version('openmae') or 'not installed'}",
    ]
    wrong = []
    for name, least in _floors():
        version = _version(name)
        found.append(f"{name} {version or 'missing'}")
        if version is None or _numbers(version) < _numbers(least):
            wrong.append(f"{name}>={least}")
    fix = f"pip install {' '.join(repr(w) for w in wrong)}" if wrong else ""
    return [Finding("versions", "FAILED" if wrong else "ok", ", ".join(found), fix)]


def _floors() -> Iterator[tuple[str, str]]:
    for line in importlib.metadata.requires("openmae") or ():
        found = re.match(r"([\w.-]+)>=([\d.]+)", line)
        if found and "extra ==" not in line:
            yield found[1], found[2]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3]]


def cores() -> list[Finding]:
    """Cores that this process may use, and what limits them."""
    may = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text, asked = f"{may} of {os.cpu_count()}", os.environ.get("OMP_NUM_THREADS", "")
    quota = _quota()
    text += f", OMP_NUM_THREADS {asked}" if asked else ""
    if quota is not None and quota < may:
        fix = f"export OMP_NUM_THREADS={max(1, int(quota))}: more threads than that wait in turn"
        level: Literal["ok", "warning"] = "ok" if asked else "warning"
        return [Finding("cores", level, f"{text}, the container may use {quota:g}", fix)]
    if asked.isdigit() and int(asked) > may:
        return [Finding("cores", "warning", text, f"export OMP_NUM_THREADS={may}")]
    return [Finding("cores", "ok", text)]


def _quota() -> float | None:
    """Cores that a container is given; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such group, or "max"
        return None


def memory() -> list[Finding]:
    """Memory that is free on this machine and in this container."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    if free < _LITTLE_MEMORY:
        fix = "Close other programs, or give the container more memory"
        return [Finding("memory", "warning", f"{gigabytes(free)} free", fix)]
    return [Finding("memory", "ok", f"{gigabytes(free)} free")]


def shared_memory(path: str = "/dev/shm") -> list[Finding]:
    """Where loader processes leave their batches."""
    if not os.path.isdir(path):
        return []
    size = os.statvfs(path)
    total, free = size.f_blocks * size.f_frsize, size.f_bavail * size.f_frsize
    text = f"{path} {gigabytes(total)}, {gigabytes(free)} free"
    if free < _LITTLE_SHM:
        fix = "Docker: --shm-size 8g, or a mount of /dev/shm. Or train with --workers 0"
        return [Finding("shared mem", "warning", text, fix)]
    return [Finding("shared mem", "ok", text)]


def open_files() -> list[Finding]:
    """How many files a process may hold open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1024:
        return [Finding("open files", "warning", f"{soft}", "ulimit -n 4096 before the command")]
    return [Finding("open files", "ok", f"{soft} (may be raised to {hard})")]


def network() -> list[Finding]:
    """Interfaces, and loopback, over which the ranks of one machine talk."""
    names = [name for _, name in socket.if_nameindex()]
    asked = [f"{k} {v}" for k, v in os.environ.items() if k.endswith("_SOCKET_IFNAME")]
    text = ", ".join([*names, *asked])
    with socket.socket() as end:
        try:
            end.bind(("127.0.0.1", 0))
        except OSError as error:
            fix = "ip link set lo up: without it no two ranks can talk on one machine"
            return [Finding("network", "FAILED", f"127.0.0.1: {error.strerror}. {text}", fix)]
    for word in asked:
        wanted = word.split()[1].lstrip("=^").split(",")[0]
        if "^" not in word and not any(name.startswith(wanted) for name in names):
            return [Finding("network", "FAILED", text, f"unset {word.split()[0]}: no {wanted}")]
    return [Finding("network", "ok", text)]


def disk(folder: Path) -> list[Finding]:
    """Space, speed and manners of the disk, tried in an empty folder of ours."""
    free = shutil.disk_usage(folder).free
    where = f"{gigabytes(free)} free, {_filesystem(folder)}"
    little = free < _LITTLE_DISK
    fix = "ViT-B takes 1.3 GB a checkpoint, ViT-L 3.9 GB: --keep 2, or another --out"
    found = [Finding("disk", "warning" if little else "ok", where, fix if little else "", STORAGE)]
    for name, check in (
        ("write", _write), ("fsync", _fsync), ("rename", _rename), ("lock", _lock)
    ):  # fmt: skip
        found += guarded(f"disk {name}", lambda c=check: [c(folder)], STORAGE)  # type: ignore[misc]
    return found


def _filesystem(folder: Path) -> str:
    """Its kind, as far as the system tells."""
    best, kind = "", "unknown kind"
    try:
        for line in Path("/proc/mounts").read_text(errors="replace").splitlines():
            _, point, name, *_ = line.split()
            inside = f"{folder.resolve()}/".startswith(f"{point.rstrip('/')}/")
            if inside and len(point) >= len(best):
                best, kind = point, name
    except (OSError, ValueError):
        pass
    return f"{kind}: gone after a restart" if kind in ("tmpfs", "ramfs") else kind


def _write(folder: Path) -> Finding:
    """Bytes a second, safely on the disk."""
    block, written, path = os.urandom(4 * MIB), 0, folder / "write"
    start = time.monotonic()
    with path.open("wb") as file:
        while written < 64 * MIB and time.monotonic() - start < 5:
            written += file.write(block)
        file.flush()
        os.fsync(file.fileno())
    rate = written / max(time.monotonic() - start, 1e-6)
    whole = path.stat().st_size == written
    path.unlink()
    text = f"{rate / 1e6:,.0f} MB/s, {written / MIB:.0f} MiB with fsync"
    if not whole:
        return Finding("disk write", "FAILED", "bytes are missing", "Another --out", STORAGE)
    if rate < _SLOW_DISK:
        fix = f"ViT-L takes {3.9e9 / rate:,.0f} s a checkpoint: a larger --save-every"
        return Finding("disk write", "warning", text, fix)
    return Finding("disk write", "ok", text)


def _fsync(folder: Path) -> Finding:
    """Of a small file and of its folder: what makes a checkpoint outlive a power loss."""
    times = []
    for number in range(5):
        start = time.monotonic()
        with (folder / f"small{number}").open("wb") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        end = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(end)
        finally:
            os.close(end)
        times.append(time.monotonic() - start)
    text = f"{1e3 * sorted(times)[2]:.1f} ms a file with its folder"
    return Finding("disk fsync", "ok", text)


def _rename(folder: Path) -> Finding:
    """A reader must see the old file or the new one, at every moment."""
    target, wrong, ended = folder / "name", [], threading.Event()
    target.write_bytes(b"a" * 4096)

    def look() -> None:
        while not ended.is_set():
            try:
                if len(set(content := target.read_bytes())) != 1 or len(content) != 4096:
                    wrong.append("a part of a file")
            except OSError as error:
                wrong.append(error.strerror or str(error))

    reader = threading.Thread(target=look, daemon=True)
    reader.start()
    try:
        for number in range(200):
            (folder / "next").write_bytes(b"ab"[number % 2 : number % 2 + 1] * 4096)
            os.replace(folder / "next", target)
    finally:
        ended.set()
        reader.join(5)
    (folder / "one").mkdir()
    os.replace(folder / "one", folder / "two")  # as a finished checkpoint gets its name
    if wrong:
        text = f"a reader saw {wrong[0]!r} during a rename"
        return Finding("disk rename", "FAILED", text, "Another --out for runs", STORAGE)
    return Finding("disk rename", "ok", "whole files at every moment, 200 renames")


def _lock(folder: Path) -> Finding:
    """A second owner must be refused: it keeps two runs from one folder."""
    path = folder / "lock"
    with path.open("a+") as first, path.open("a+") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            fix = "Lustre: mount with -o flock. NFS: version 4. Or another --out"
            return Finding("disk lock", "FAILED", f"flock: {error.strerror}", fix, STORAGE)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return Finding("disk lock", "ok", "a second owner is refused")
    fix = "Never start two runs in one folder here, or mount with flock"
    return Finding("disk lock", "FAILED", "a second owner is let in", fix, STORAGE)
