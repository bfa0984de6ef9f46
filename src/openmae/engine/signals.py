"""Requests to stop: signals, a STOP file, a time limit. They only set a flag; the loop saves at the
next step.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

from openmae.errors import INTERRUPTED
from openmae.rank import heeded, received


class StopRequest:
    """A context in which SIGTERM, SIGINT, SIGUSR1 and SIGHUP ask for a stop; a second SIGINT exits
    at once.

    Outside the main thread no handlers can be installed; the STOP file and the time limit still
    work.
    """

    def __init__(self, time_limit: float | None = None) -> None:
        self._reason: str | None = None
        self._interrupted = False
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._stop_file: Path | None = None
        self._before: dict[int, object] = {}

    def watch(self, folder: Path) -> None:
        """Also stop when a file named STOP appears in the folder; one from before is removed."""
        self._stop_file = folder / "STOP"
        self._stop_file.unlink(missing_ok=True)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in heeded():
                self._before[number] = signal.signal(number, self._handle)
            for early in received():  # while this process was still importing
                self._handle(early, None)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                os._exit(INTERRUPTED)  # the disk is valid at any moment; nothing is to be tidied
            self._interrupted = True
        self._reason = signal.Signals(number).name

    def reason(self) -> str | None:
        """Why to stop, or None."""
        if (
            self._reason is None
            and self._deadline is not None
            and time.monotonic() > self._deadline
        ):
            self._reason = "time limit"
        if self._reason is None and self._stop_file is not None and self._stop_file.exists():
            self._stop_file.unlink(missing_ok=True)
            self._reason = "STOP file"
        return self._reason
