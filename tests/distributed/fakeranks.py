"""Ranks without torch, so that tests of the launcher are fast: a small program for each of them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

HEAD = """
import json, os, signal, sys, time
from pathlib import Path
from openmae import rank
rank.begin(["pretrain"])
R, ATTEMPT = rank.number(), int(os.environ["OPENMAE_ATTEMPT"])
OUT = Path(sys.argv[1])
if ATTEMPT == 0 and R == 0:
    rank.tell_folder(OUT)
(OUT / f"began_{R}").write_text(str(os.getpid()))
def wait_for(what, seconds=30):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)
def all_began():
    ranks = range(int(os.environ["WORLD_SIZE"]))
    wait_for(lambda: all((OUT / f"began_{r}").exists() for r in ranks))
def checkpoint(step):
    folder = OUT / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "MANIFEST.json").write_text("{}")
def save_when_asked():
    wait_for(rank.received)
    time.sleep(0.2)
    (OUT / f"told_{R}").write_text(",".join(signal.Signals(n).name for n in rank.received()))
    rank.report(75)
    sys.exit(75)
"""


def command(out: Path, body: str) -> list[str]:
    """The words that start one rank; `body` is its program."""
    return [sys.executable, "-c", HEAD + textwrap.dedent(body), str(out)]


LAUNCHER = """
import json, sys
from openmae.answers import guarded
from openmae.launch import launch
told = json.loads(sys.argv[1])
sys.exit(guarded(lambda: launch(told["command"], told["count"], told["restarts"]), []))
"""


def start(
    out: Path, body: str, count: int = 2, restarts: int = 0, **more: object
) -> subprocess.Popen[str]:
    """A launcher of such ranks, in a process of its own. Folders of its own too: TMPDIR."""
    out.mkdir(exist_ok=True)
    told = json.dumps({"command": command(out, body), "count": count, "restarts": restarts})
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, told],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,  # type: ignore[call-overload]
    )


def until(what: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something that is about to happen."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def began(out: Path, count: int = 2) -> bool:
    """Whether every rank began."""
    return len(list(out.glob("began_*"))) == count


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
