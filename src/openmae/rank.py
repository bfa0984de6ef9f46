"""What a process does first when it is one rank of several: it dies with who started it, keeps stop
signals until the run can answer them, and leaves a report of how it ended. A leaf without torch.

A rank is told of itself as by torchrun (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
MASTER_ADDR, MASTER_PORT). Our own launcher adds OPENMAE_LAUNCHER, its process, and OPENMAE_REPORTS,
a folder that the ranks make when they have something to say.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from openmae.errors import INTERRUPTED, STOPPED_EARLY, LostPeerError, PeerError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""What asks a run to stop."""

TRAINING = ("pretrain", "tokenize", "finetune", "detect", "segment", "ablate", "compare")
"""Commands that answer such a signal by saving."""

_READING = ("evaluate", "predict")  # after one of these words: `detect evaluate`

FOLDER = "folder"
"""File among the reports that names the run folder."""

_received: list[int] = []
_alike = [True]  # so far every rank does the same with the same words


def number() -> int:
    """Which rank this process is; 0 where there is only one."""
    return int(os.environ.get("RANK") or 0)


def started() -> bool:
    """Whether somebody started this process as a rank: torchrun, or our own launcher."""
    return bool(os.environ.get("RANK")) and bool(os.environ.get("WORLD_SIZE"))


def launched() -> bool:
    """Whether our own launcher did."""
    return started() and bool(os.environ.get("OPENMAE_REPORTS"))


def begin(words: Sequence[str]) -> None:
    """The first thing in a process that runs the command `words`, before anything is imported."""
    if started():
        die_with_parent()
        if number() and not launched():  # torchrun shows all that its ranks print
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    first, second = (*(w for w in words if not w.startswith("-")), "", "")[:2]
    if first in TRAINING and second not in _READING:
        for name in heeded():
            signal.signal(name, _keep)
    if launched():  # the launcher has them wait until here
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def die_with_parent() -> None:
    """End this process when the one that started it ends (OPENMAE_LAUNCHER, or its parent)."""
    if sys.platform != "linux":
        return
    before = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    parent = int(os.environ.get("OPENMAE_LAUNCHER") or before)
    if os.getppid() != parent:  # it ended before it could be watched
        os._exit(1)


def _keep(number: int, _: FrameType | None) -> None:
    if number == signal.SIGINT and number in _received:
        os._exit(INTERRUPTED)
    _received.append(number)


def heeded() -> list[signal.Signals]:
    """Those of `SIGNALS` that this process listens to: under nohup a terminal may go away."""
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [n for n in SIGNALS if not (nohup and n == signal.SIGHUP)]


def received() -> tuple[int, ...]:
    """Signals that came before there was a `StopRequest`, in their order."""
    return tuple(_received)


def report(
    exit_code: int, message: str = "", cause: bool = True, more: Mapping[str, Any] | None = None
) -> None:
    """Leave rank_R.json for the launcher, once: the first report of a rank stands.

    `cause` is False for a rank that only failed because another one did.
    """
    if not launched():
        return
    path = Path(os.environ["OPENMAE_REPORTS"]) / f"rank_{number()}.json"
    values = {"exit_code": exit_code, "message": message, "cause": cause, "time": time.time()}
    with contextlib.suppress(OSError):
        if not path.exists():
            _write(path, json.dumps({**(more or {}), **values}, default=str))


def tell_folder(folder: Path) -> None:
    """Tell the launcher which run folder it is, so that it knows how far the run came."""
    if launched() and not number():
        with contextlib.suppress(OSError):
            _write(Path(os.environ["OPENMAE_REPORTS"]) / FOLDER, str(folder.absolute()))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    os.replace(temporary, path)


def parted() -> None:
    """From here on ranks may differ, so that each tells its own errors."""
    _alike[0] = False


def failed(error: BaseException, text: str, exit_code: int) -> None:
    """Say that this process ended with an error: to the launcher where there is one, else on
    standard error, with the rank before it; nothing where another rank tells it.
    """
    cause = not isinstance(error, LostPeerError | PeerError)
    if launched():
        report(exit_code, text, cause)
    elif not started() or not number():
        if cause or not started():
            print(f"openmae: {text}", file=sys.stderr)
    elif cause and not _alike[0]:
        print(f"openmae: rank {number()}: {text}", file=sys.stderr)


def crashed(error: BaseException) -> bool:
    """Report a bug to the launcher, with its traceback; False where it is to be raised."""
    if not launched():
        return False
    text = "".join(traceback.format_exception(error))
    report(1, f"a bug, please report it\n{text}", not isinstance(error, LostPeerError | PeerError))
    return True


def exit_status(code: int) -> int:
    """The exit code to end with. torchrun that may restart takes every code but 0 for a failure: a
    run that saved and stopped then ends with 0, and status.json has the true code.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0)
    stopped = code == STOPPED_EARLY and started() and not launched()
    return 0 if stopped and restarts > 0 else code
