"""How a command ends: its exit code, and one message where it failed. Bugs stay bugs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from cyclopts import CycloptsError

from openmae.errors import INTERRUPTED, MemoryLimitError, OpenMAEError, StorageError
from openmae.rank import crashed, failed, report
from openmae.words import message


def guarded(run: Callable[[], Any], words: list[str]) -> int:
    """Run a command of these words; the return value is the exit code. A bug is raised, and so is
    every error with --debug.
    """
    try:
        results = run()
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except (Exception, KeyboardInterrupt) as error:
        told = None if "--debug" in words else answer(error, words)
        if told is None:
            if not crashed(error):
                raise
            return 1
        failed(error, *told)
        return told[1]
    code = int(getattr(results, "exit_code", 0))
    report(code, more={"results": results, "folder": getattr(results, "folder", None)})
    return code


def answer(error: BaseException, words: list[str]) -> tuple[str, int] | None:
    """What to say of an error, and the exit code; None for a bug."""
    if isinstance(error, OpenMAEError | CycloptsError):
        return message(error, words), getattr(error, "exit_code", 2)
    if _out_of_memory(error):
        hint = "Give a smaller --micro-batch or --batch-size, or --device cpu"
        return f"out of memory: {str(error)[:120]}\n{hint}", MemoryLimitError.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, OSError):  # a name too long, a folder that may not be read, a full disk
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return f"{where}{error.strerror or error}", StorageError.exit_code
    return None


def _out_of_memory(error: BaseException) -> bool:
    """Memory of the device or of the machine; without importing torch."""
    named = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and named)
