"""All attempts of one command on N ranks, with the signals of this process passed on."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from openmae.engine.runfolder import Results
from openmae.errors import (
    DataError,
    DivergedError,
    MemoryLimitError,
    OpenMAEError,
    StorageError,
    UsageError,
)
from openmae.launch.attempt import Attempt, End
from openmae.launch.cause import Cause, find
from openmae.launch.progress import Progress
from openmae.rank import heeded, received

_ERRORS = {
    kind.exit_code: kind
    for kind in (UsageError, DataError, StorageError, MemoryLimitError, DivergedError)
}


class Shown(Results):
    """Results that rank 0 has printed."""

    shown = True


class RanksError(OpenMAEError):
    """A rank failed by a fault of the code or of the machine."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def launch(command: Sequence[str], count: int, restarts: int = 0) -> Results:
    """Run `command` as `count` ranks; returns what rank 0 reports, with its exit code.

    After a rank was killed or crashed, all are started again, at most `restarts` times without a
    newer checkpoint.

    Raises:
        OpenMAEError: the root cause of a failure, of the class that its exit code names.
        KeyboardInterrupt: a second Ctrl-C; every rank is dead.
    """
    progress, used, number = Progress(), 0, 0
    _remove_stale()
    with _Signals() as signals:
        while True:
            saved = progress.saved
            with _reports() as reports:
                ends = _run(Attempt(command, count, number, reports), signals, progress)
            cause = find(ends)
            if cause is None:
                return _results(ends)
            used = 0 if progress.saved > saved else used
            if signals.asked or not _may_restart(cause, progress) or used >= restarts:
                raise _error(cause, used, signals.asked)
            used, number = used + 1, number + 1
            _say_restart(cause, progress, used, restarts)


def _run(attempt: Attempt, signals: _Signals, progress: Progress) -> list[End]:
    """Start the ranks and wait for them; none outlives an error here."""
    progress.restart()

    def meanwhile(attempt: Attempt) -> None:
        signals.pass_on(attempt)
        progress.look(attempt.reports)

    try:
        attempt.start()
        ends = attempt.wait(meanwhile)
    except BaseException:
        attempt.kill()
        raise
    progress.look(attempt.reports)
    return ends


def _may_restart(cause: Cause, progress: Progress) -> bool:
    """Errors of the user come back, and so do those of a run that never began; a run that lowered
    its micro-batch has another try.
    """
    if cause.exit_code == MemoryLimitError.exit_code and not cause.again:
        return progress.lowered
    return cause.again and (progress.begun or not cause.crashed)


def _say_restart(cause: Cause, progress: Progress, used: int, restarts: int) -> None:
    print(
        f"openmae: {cause.brief}. At step {progress.reached:,}: restart {used} of {restarts}"
        f" from step {progress.saved:,}",
        file=sys.stderr,
        flush=True,
    )


def _error(cause: Cause, used: int, asked: Sequence[int]) -> OpenMAEError:
    number = cause.exit_code - 128
    if number in asked:  # of a command that has nothing to save
        return RanksError(f"ended by {signal.Signals(number).name}", cause.exit_code)
    again = "restart" if used == 1 else f"{used} restarts"
    more = f"\nNo newer checkpoint after {again}" if used else ""
    kind = _ERRORS.get(cause.exit_code)
    text = cause.text + more
    return RanksError(text, cause.exit_code) if kind is None else kind(text)


def _results(ends: Sequence[End]) -> Shown:
    """What rank 0 reported."""
    told = ends[0].report
    folder = Path(told["folder"]) if told.get("folder") else None
    return Shown(told.get("results") or {}, folder, max(end.code for end in ends))


class _Signals:
    """A context in which each stop signal is passed on to all ranks, once; a second SIGINT kills
    them. Outside the main thread there are no handlers.
    """

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.at_once = False
        self._sent: set[int] = set()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._note) for n in heeded()}
            for early in received():
                self._note(early, None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.at_once |= number == signal.SIGINT and number in self.asked
        if number not in self.asked:
            self.asked.append(number)

    def pass_on(self, attempt: Attempt) -> None:
        """Called by a waiting attempt."""
        if self.at_once:
            attempt.kill()
            raise KeyboardInterrupt
        for number in self.asked:
            if number not in self._sent:
                self._sent.add(number)
                attempt.send(number)


_NAME = "openmae-ranks-"


@contextlib.contextmanager
def _reports() -> Iterator[Path]:
    """A folder that ranks may make, gone at the end. A launcher that is killed leaves none unless
    a rank wrote something.
    """
    path = Path(tempfile.gettempdir()) / f"{_NAME}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _remove_stale() -> None:
    """Folders of launchers that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_NAME}*"):
        found = re.match(r"(\d+)-", path.name.removeprefix(_NAME))
        with contextlib.suppress(OSError):
            if found and path.stat().st_uid == os.getuid() and not _alive(int(found[1])):
                shutil.rmtree(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
