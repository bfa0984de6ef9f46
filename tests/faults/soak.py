"""F40: faults at random, one after the other, for as long as asked; every run must end as one that
nothing disturbed, and the machine must not fill up.

python tests/faults/soak.py --minutes 120 [--seed N]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "resume")]

from trials import STEPS, Ended, Server, command, final, left_over, losses, server  # noqa: E402

from openmae.engine import checkpoint  # noqa: E402

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")


@dataclass
class Soak:
    """The runs of one soak."""

    trials: Server
    base: Path
    draw: random.Random
    fired: dict[str, int] = field(default_factory=dict)
    runs: int = 0

    def run(self, whole: Path) -> None:
        """One run, disturbed until it ends."""
        out = self.base / f"run-{self.runs}"
        self.runs += 1
        for _ in range(40):
            ended = self._disturbed(out)
            assert ended.code in (0, 4, 5, 75, -9), ended.text
            assert "Traceback" not in ended.text, ended.text
            if (out / "checkpoints").is_dir():
                found, notices = checkpoint.latest(out / "checkpoints")
                assert notices == [], notices
                assert found is None or found.step <= STEPS
            if ended.code == 0:
                break
        ended = self.trials.run(command(out))
        assert ended.code == 0, ended.text
        assert final(out) == final(whole), "weights, averages or moments differ"
        assert losses(out) == losses(whole), "the metrics differ"
        assert left_over(out) == []

    def _disturbed(self, out: Path) -> Ended:
        draw, settings = self.draw, dict[str, Any]()
        settings["workers"] = draw.choice((0, 0, 1, 2))
        settings["save_in_background"] = draw.random() < 0.5
        settings["save_every"] = draw.choice((3, 3, 2, 5))
        kind = draw.choice((*SIGNALS, "kill", "save", "worker", "memory", "clock", "none"))
        self.fired[kind] = self.fired.get(kind, 0) + 1
        words = command(out, **settings)
        if kind in SIGNALS:
            act = {"signal": kind, "group": draw.random() < 0.3}
            return self.trials.run(words, at_step=draw.randint(1, STEPS), act=act)
        if kind == "kill":
            return self.trials.kill_after(words, draw.uniform(0.0, 1.0))
        marks = Path(tempfile.mkdtemp(dir=self.base))
        where = draw.choice(("before", "within", "after"))
        times = draw.choice((1, 1, 9))
        step = draw.randint(1, STEPS)
        faults: dict[str, dict[str, Any]] = {
            "save": {"kill_save": {"step": step, "where": where}},
            "worker": {"kill_worker": {"step": step, "times": times, "marks": str(marks)}},
            "memory": {"exhausted": {"step": step}},
            "clock": {"clock": {"offset": draw.choice((3600.0, 3e8)), "frozen": step % 3 == 0}},
            "none": {},
        }
        return self.trials.run(words, faults=faults[kind])


def usage(pid: int) -> dict[str, int]:
    """Memory in bytes and open files of a process, and files in shared memory."""
    status = Path(f"/proc/{pid}/statm").read_text().split()
    return {
        "memory": int(status[1]) * os.sysconf("SC_PAGE_SIZE"),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "shared": len([p for p in os.listdir("/dev/shm") if p.startswith(f"torch_{pid}_")]),
    }


def soak(base: Path, minutes: float, seed: int) -> Soak:
    """Disturb runs for so long; raises AssertionError where one ends otherwise."""
    print(f"seed {seed}", flush=True)
    with server(base) as trials:
        whole = base / "whole"
        assert trials.run(command(whole)).code == 0
        made = Soak(trials, base, random.Random(seed))
        made.run(whole)
        before, until = usage(trials.process.pid), time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            made.run(whole)
        after = usage(trials.process.pid)
        print(made.runs, "runs", made.fired, before, after, flush=True)
        assert after["files"] <= before["files"], "open files add up"
        assert after["shared"] <= before["shared"], "shared memory adds up"
        assert after["memory"] <= 1.2 * before["memory"] + 2e7, "memory adds up"
    return made


def main() -> int:
    """The command."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--minutes", type=float, default=120.0)
    words.add_argument("--seed", type=int, default=int(time.time()))
    asked = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="openmae-soak-") as folder:
        soak(Path(folder), asked.minutes, asked.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
