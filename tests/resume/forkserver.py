"""A process that has imported everything once and forks for each trial, so that a trial takes well
under a second. One JSON line in, one out.

{"argv": [...], "log": PATH, "hooks": {...}} -> {"pid": N}      {"wait": N} -> {"code": N}
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def _act(what: dict[str, Any]) -> None:
    """The fault of a trial: a signal to itself or its group, or a STOP file."""
    if "signal" in what:
        number = signal.Signals[what["signal"]]
        os.killpg(0, number) if what.get("group") else os.kill(os.getpid(), number)
    else:
        Path(what["touch"]).touch()


def _install(hooks: dict[str, Any]) -> None:
    from openmae.engine import loop
    from openmae.tasks import training

    if "at_step" in hooks:  # after this many finished steps
        real = loop.training_step

        def step(state: Any, *more: Any) -> Any:
            values = real(state, *more)
            if state.step == hooks["at_step"]:
                _act(hooks["act"])
            return values

        loop.training_step = step
    if "faults" in hooks:
        sys.path.append(str(Path(__file__).parents[1] / "faults"))
        importlib.import_module("trialfaults").install(hooks["faults"])
    if "seconds" in hooks:  # a time limit shorter than its smallest unit
        training.seconds = lambda _: hooks["seconds"]


def _child(trial: dict[str, Any]) -> None:
    from openmae.rank import begin

    if trial["argv"]:
        begin(trial["argv"])  # as the command does: a stop signal may come at any time
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.setsid()  # its own group, with its loader processes
    log = os.open(trial["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ.update(trial.get("environment", {}))
    code = 1
    try:
        if "save_in_a_loop" in trial:
            import savers

            savers.save_in_a_loop(Path(trial["save_in_a_loop"]))
        if "call" in trial:  # a function of a module of a folder, given the trial
            folder, module, name = trial["call"]
            sys.path.insert(0, folder)
            code = getattr(importlib.import_module(module), name)(trial)
            return
        from openmae.cli import main

        _install(trial.get("hooks", {}))
        code = main(trial["argv"])
        if "modules" in trial:
            Path(trial["modules"]).write_text("\n".join(sorted(sys.modules)))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _warm(modules: str) -> None:
    """Import what the first trial came to import."""
    for name in Path(modules).read_text().split():
        if name not in sys.modules and not name.startswith("__"):
            try:
                importlib.import_module(name)
            except Exception:
                continue


def serve() -> None:
    """Answer until standard input closes."""
    import openmae.tasks.pretrain  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        elif "warm" in asked:
            _warm(asked["warm"])
            answer = {}
        else:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until the child heeds it
            pid = os.fork()
            if pid == 0:
                _child(asked)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
