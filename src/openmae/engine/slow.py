"""Says what is waited for when something takes unusually long: a stalled network drive, a slow
disk.

A thread looks at a few attributes now and then; a step pays for setting them and for nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from openmae.engine.log import duration, warn

DATA, SAVING = 30.0, 60.0  # seconds before the first notice
AGAIN = 60.0  # between notices of the same wait
_LOOK = 1.0


class Wait:
    """A context that takes no time as a rule. `words(duration)` is what to say when it does."""

    def __init__(self, first: float, words: Callable[[str], str]) -> None:
        self.first, self.words = first, words
        self.since: float | None = None
        self._told = 0

    def __enter__(self) -> Wait:
        self._told, self.since = 0, time.monotonic()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.since = None

    def look(self, again: float) -> None:
        """Say so when the wait is long; called by the thread of a Watch."""
        since = self.since
        if since is None:
            return
        seconds = time.monotonic() - since
        if seconds >= self.first + self._told * again:
            self._told = 1 + int((seconds - self.first) // again)
            warn(self.words(duration(seconds)), own=True)


class Watch:
    """Looks at the waits that it is given, while it is entered."""

    def __init__(self, again: float = AGAIN, look: float = _LOOK) -> None:
        self._again, self._look = again, look
        self._waits: list[Wait] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, first: float, words: Callable[[str], str]) -> Wait:
        """A wait to enter whenever it may happen; it is for one thread at a time."""
        wait = Wait(first, words)
        self._waits.append(wait)
        return wait

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run, name="openmae-slow", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._look):
            for wait in list(self._waits):
                wait.look(self._again)
