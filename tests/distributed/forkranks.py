"""`--gpus N` in a child of the fork server: its ranks are forks too, so that each start takes a
tenth of a second, and they may be killed at random on the way.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class ForkedRank:
    """As Popen, for a rank that is a fork of this process. `command` is what main() is given."""

    def __init__(self, command: list[str], **more: Any) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _be_rank(command[1:], **more)

    def poll(self) -> int | None:
        return self._look(os.WNOHANG)

    def wait(self, _: float | None = None) -> int | None:
        return self._look(0)

    def _look(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def _be_rank(words: list[str], env: dict[str, str], stdout: Any, stderr: Any, **_: Any) -> None:
    code = 1
    try:
        os.setsid()
        if stdout == subprocess.DEVNULL:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if stderr is not None:
            os.dup2(stderr.fileno(), 2)
        os.environ.clear()
        os.environ.update(env)
        from forkserver import _install

        from openmae import cli, rank

        rank.begin(words)
        for at, (number, step) in enumerate(json.loads(env["KILLS"])):
            if (at, number) == (int(env["OPENMAE_ATTEMPT"]), rank.number()):
                if step == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                _install({"at_step": step, "act": {"signal": "SIGKILL"}})
        code = rank.exit_status(cli.main(words))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Killer:
    """Kills one rank in each attempt, at a time and of a number by chance, until it has done so
    `kills` times.
    """

    def __init__(self, kills: int, seed: int, most: float) -> None:
        self.left, self.chance, self.most = kills, random.Random(seed), most
        self.done: list[tuple[int, int, float]] = []
        self.attempt: Any = None

    def __call__(self, attempt: Any) -> None:
        if attempt is not self.attempt:
            self.attempt, self.began = attempt, time.monotonic()
            self.due: float | None = self.chance.uniform(0, self.most)
        spent = time.monotonic() - self.began
        if self.left and self.due is not None and spent + 0.05 > self.due:
            time.sleep(max(0.0, self.due - spent))
            rank = self.chance.randrange(attempt.count)
            process = attempt._ranks[rank]
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                self.done.append((len(self.done), rank, round(self.due, 3)))
                self.left -= 1
            self.due = None


def launched(trial: dict[str, Any]) -> int:
    """Run trial["argv"] as `openmae` would; writes which kills there were to trial["kills"].
    trial["steps"] are further ones: (rank, step) of each attempt, 0 before its imports.
    """
    from openmae import cli
    from openmae.launch import attempt, ranks

    attempt.GRACE = 0.5  # a rank that was killed before it joined is waited for
    attempt.subprocess.Popen = ForkedRank  # type: ignore[misc, assignment]
    cli.sys.executable = "openmae"
    os.environ["KILLS"] = json.dumps(trial["steps"])
    killer = Killer(trial["count"], trial["seed"], trial["most"])
    pass_on = ranks._Signals.pass_on

    def also_kill(self: Any, running: Any) -> None:
        pass_on(self, running)
        killer(running)

    ranks._Signals.pass_on = also_kill  # type: ignore[method-assign]
    real = cli.execute

    def execute(task: str, given: Any, options: Any, spelling: Any, command: list[str]) -> Any:
        return real(task, given, options, spelling, command[2:])  # without -m openmae

    cli.execute = execute
    code = cli.main(trial["argv"])
    Path(trial["kills"]).write_text(json.dumps(killer.done))
    return code
