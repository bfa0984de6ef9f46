"""The errors that a user can cause, each with its exit code. A leaf: every part of the house may
import it.

Anything else that escapes is a bug, and the command line shows it as one.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


class OpenMAEError(Exception):
    """An error to be shown without a traceback: what is wrong, where, and the fix, in at most four
    lines.
    """

    exit_code = 1


class UsageError(OpenMAEError):
    """The words of the command or call are wrong."""

    exit_code = 2


class DataError(OpenMAEError):
    """The images or labels cannot be used as they are."""

    exit_code = 3


class StorageError(OpenMAEError):
    """A folder, a checkpoint or the disk refuses."""

    exit_code = 4


class MemoryLimitError(OpenMAEError):
    """The device is out of memory, or a loader process was killed for it."""

    exit_code = 5


class DivergedError(OpenMAEError):
    """Too many steps in a row without a finite loss or gradient."""

    exit_code = 6


class LostPeerError(OpenMAEError):
    """Another rank ended, so this one cannot go on: a consequence, whose cause that rank tells."""

    exit_code = 1


class PeerError(OpenMAEError):
    """Another rank has an error, which it tells; this one ends with the same exit code."""

    def __init__(self, exit_code: int, text: str = "another rank has an error") -> None:
        super().__init__(text)
        self.exit_code = exit_code


STOPPED_EARLY = 75
"""Exit code of a run that saved and can be continued (EX_TEMPFAIL of sysexits)."""

INTERRUPTED = 130
"""Exit code of a second Ctrl-C."""


def did_you_mean(word: str, known: Iterable[str], n: int = 1) -> list[str]:
    """The `n` names of `known` closest to `word`, best first; empty when nothing is near."""
    return difflib.get_close_matches(word, list(known), n=n, cutoff=0.6)


def no_argument(what: str, name: str, known: Collection[str]) -> str:
    """That `what` has no argument of a name, and which one is near, or all that it has."""
    near = did_you_mean(name, known)
    hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(known) or 'none'}."
    return f"{what} has no {name}. {hint}"
