"""One attempt: N processes started together, signals passed on to them, and how each one ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from openmae.errors import STOPPED_EARLY
from openmae.rank import FOLDER, SIGNALS

GRACE = 5.0
"""Seconds for the others to end by themselves after one rank failed, and then after SIGTERM."""

SAVING = 60.0
"""The same after an error that ranks agree on in a run: the last finished step is being saved."""

_AGREED = (3, 4, 5, 6)  # exit codes of such errors
_POLL = 0.05
_TAIL = 16_384  # bytes of standard error that are looked at


@dataclass(frozen=True)
class End:
    """How a rank ended: its exit code (negative: a signal), when, whether we killed it, its report
    and its last words on standard error (of rank 0 they went to the user).
    """

    rank: int
    code: int
    time: float
    by_us: bool
    report: Mapping[str, Any]
    tail: str

    @property
    def failed(self) -> bool:
        """Neither done nor stopped early."""
        return self.code not in (0, STOPPED_EARLY)


class Attempt:
    """N ranks of one command. Each has a session of its own, so that a signal of the terminal
    reaches the launcher only, and killing it takes its loader processes along.
    """

    def __init__(self, command: Sequence[str], count: int, number: int, reports: Path) -> None:
        self.command, self.count, self.reports = list(command), count, reports
        self._shared = _environment(count, number, reports)
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._errors: list[IO[bytes] | None] = []
        self._shown: list[int] = []
        self._ended: dict[int, End] = {}
        self._ours: set[int] = set()

    def start(self) -> None:
        """Start all ranks. Stop signals wait in them until they can be answered."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            for rank in range(self.count):
                errors = None if rank == 0 else tempfile.TemporaryFile()  # noqa: SIM115
                self._errors.append(errors)
                self._shown.append(0)
                self._ranks.append(
                    subprocess.Popen(
                        self.command,
                        env={**self._shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdin=None if rank == 0 else subprocess.DEVNULL,
                        stdout=None if rank == 0 else subprocess.DEVNULL,
                        stderr=errors,
                        start_new_session=True,
                    )
                )
        except BaseException:
            self.kill()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def send(self, number: int) -> None:
        """A signal to every rank that is alive."""
        for process in self._ranks:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def kill(self) -> None:
        """End every rank at once, with all processes of its session."""
        for rank, process in enumerate(self._ranks):
            if process.returncode is None:
                self._ours.add(rank)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        for process in self._ranks:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may hang in the kernel
                process.wait(GRACE)

    def wait(self, pass_on: Callable[[Attempt], None]) -> list[End]:
        """Wait for all ranks. After the first failure the others get some seconds to end by
        themselves, then SIGTERM, then SIGKILL. `pass_on(self)` is called again and again.
        """
        until, told = None, False
        while self._look():
            pass_on(self)
            now = time.monotonic()
            failed = [end for end in self._ended.values() if end.failed]
            if failed and until is None:
                until = now + self._patience(failed[0])
            if until is not None and now > until and not told:
                told = True
                self._ours |= set(range(self.count)) - self._ended.keys()
                self.send(signal.SIGTERM)
            if until is not None and now > until + GRACE:
                self.kill()
            time.sleep(_POLL)
        return [self._ended[rank] for rank in range(self.count)]

    def _patience(self, end: End) -> float:
        return SAVING if run_folder(self.reports) and end.code in _AGREED else GRACE

    def _look(self) -> bool:
        """Note which ranks ended, show what others tell the user; whether one is alive."""
        for rank, process in enumerate(self._ranks):
            ended = rank not in self._ended and process.poll() is not None
            self._show(rank)
            if ended:
                self._ended[rank] = self._end(rank)
        return len(self._ended) < self.count

    def _show(self, rank: int) -> None:
        """Lines of another rank that are meant for the user begin with its name."""
        text, start = self._read(rank, self._shown[rank]), f"openmae: rank {rank}: ".encode()
        whole = text[: text.rfind(b"\n") + 1]
        self._shown[rank] += len(whole)
        for line in whole.splitlines():
            if line.startswith(start):
                print(line.decode("utf-8", "backslashreplace"), file=sys.stderr, flush=True)

    def _read(self, rank: int, start: int) -> bytes:
        errors = self._errors[rank]
        if errors is None:
            return b""
        size = os.fstat(errors.fileno()).st_size
        return os.pread(errors.fileno(), size - start, start) if size > start else b""

    def _end(self, rank: int) -> End:
        errors, now = self._errors[rank], time.time()
        size = os.fstat(errors.fileno()).st_size if errors is not None else 0
        tail = self._read(rank, max(0, size - _TAIL)).decode("utf-8", "backslashreplace")
        if errors is not None:
            errors.close()
            self._errors[rank] = None
        code, report = self._ranks[rank].returncode, _report(self.reports / f"rank_{rank}.json")
        if code < 0 and report.get("exit_code") in (0, STOPPED_EARLY):
            code = report["exit_code"]  # its work was done: a library crashed when it was unloaded
        return End(rank, code, now, rank in self._ours, report, tail)


def run_folder(reports: Path) -> Path | None:
    """The run folder that the ranks told of; None before."""
    try:
        text = (reports / FOLDER).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    return Path(text)


def _report(path: Path) -> dict[str, Any]:
    """What a rank left; empty where it left nothing."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _environment(count: int, number: int, reports: Path) -> dict[str, str]:
    """What all ranks of an attempt are told, as torchrun would on one machine."""
    own = dict(os.environ)
    own.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    if sys.platform == "linux":
        for kind in ("GLOO", "NCCL"):  # nothing leaves this machine
            own.setdefault(f"{kind}_SOCKET_IFNAME", "lo")
    return own | {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OPENMAE_ATTEMPT": str(number),
        "OPENMAE_LAUNCHER": str(os.getpid()),
        "OPENMAE_REPORTS": str(reports),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
