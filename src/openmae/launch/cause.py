"""Why an attempt failed: the first error that no other one explains."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from openmae.errors import MemoryLimitError
from openmae.launch.attempt import End

_FOR_MEMORY = (signal.SIGKILL, signal.SIGBUS)
_ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_SEEN_LATE = 0.5  # seconds: a rank's death is seen after the errors it causes in others
_LINES = 12


@dataclass(frozen=True)
class Cause:
    """The rank that failed first, what to end with, what to say: in full, and in a few words."""

    rank: int
    exit_code: int
    text: str
    brief: str
    again: bool
    """Whether the same ranks may do better when they are started again."""
    crashed: bool = False
    """An error in the code, which may come back."""


def find(ends: Sequence[End]) -> Cause | None:
    """The root cause; None where every rank is done or stopped early."""
    failed = [end for end in ends if end.failed]
    if not failed:
        return None
    found = min(failed, key=_order)
    return _of_signal(found) if found.code < 0 else _of_code(found, failed)


def _order(end: End) -> tuple[bool, float]:
    """Ranks that only followed come last: those that we ended, and those that lost another."""
    followed = end.by_us or end.report.get("cause") is False
    died = end.code < 0 and not end.by_us
    at = end.report.get("time", end.time)
    return followed, end.time - _SEEN_LATE if died else at


def _of_signal(end: End) -> Cause:
    number = -end.code
    hint = ", most often for memory" if number in _FOR_MEMORY else ""
    brief = f"rank {end.rank} was killed (signal {number})"
    text = f"{brief}{hint}{_last_words(end)}"
    if number in _ASKED:
        return Cause(end.rank, 128 + number, text, brief, False)
    code = MemoryLimitError.exit_code if number in _FOR_MEMORY else 1
    return Cause(end.rank, code, text, brief, True)


def _of_code(end: End, failed: Sequence[End]) -> Cause:
    message = str(end.report.get("message") or "").strip()
    code = int(end.report.get("exit_code") or end.code)
    everywhere = all(e.report.get("message") == end.report.get("message") for e in failed)
    place = "" if end.rank == 0 or (message and everywhere) else f"rank {end.rank}: "
    if not message:
        message = f"ended with exit code {code}{_last_words(end)}"
        place = f"rank {end.rank} "
    if message.startswith("rank "):
        place = ""
    last = message.splitlines()[-1].strip().rstrip(".")[:160]
    brief = last if last.startswith("rank ") else f"rank {end.rank}: {last}"
    return Cause(end.rank, code, place + message, brief, again=code == 1, crashed=code == 1)


def _last_words(end: End) -> str:
    """The last lines of a rank's standard error; of rank 0 they were shown as they came."""
    lines = [line for line in end.tail.splitlines() if line.strip()][-_LINES:]
    return ". Its last lines:\n" + "\n".join(f"  {line[:300]}" for line in lines) if lines else ""
