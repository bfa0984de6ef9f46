"""`openmae watch`: the page of a run in the browser, while it goes on."""

from __future__ import annotations

import getpass
import os
import signal
from pathlib import Path

from openmae.config.base import Options
from openmae.config.watch import WatchConfig
from openmae.engine.log import say
from openmae.engine.runfolder import Results
from openmae.errors import UsageError
from openmae.report.html import text
from openmae.report.metricsfile import Metrics
from openmae.report.rundata import state_of
from openmae.report.watchserver import Live, WatchServer
from openmae.tasks.runpages import is_run, page_parts, paths_of, read_runs, require_run


def run(config: WatchConfig, options: Options) -> Results:
    """Serve the page until Ctrl-C."""
    paths = paths_of(config.runs)
    for path in paths:
        if path.exists() and not _empty(path):
            require_run(path)
        elif not path.parent.exists():
            require_run(path)  # nothing can begin there: a mistyped name
    waiting = [path for path in paths if not is_run(path)]
    told = Results({"runs": len(paths), "waiting": len(waiting)})
    if options.dry_run:
        say("Dry run", f"{len(paths)} runs would be watched, {len(waiting)} not there yet")
        told["dry_run"] = True
        return told
    live = Live(Watched(paths, config.axis), config.every)
    try:
        server = WatchServer(live, config.port)
    except OSError as error:
        hint = "Give another one, or none: a free one is found"
        raise UsageError(f"--port {config.port}: {error.strerror}. {hint}") from None
    port = server.server_address[1]
    say("Watch", server.url)
    say("", "this computer only; reads only; Ctrl-C ends it, and not the run")
    say("", f"from elsewhere: ssh -N -L {port}:127.0.0.1:{port} {_here()}   then the same address")
    for path in waiting:
        say("Waiting", f"{path} is not there yet: the page says so until it begins")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background has the first ignored
        signal.signal(number, signal.default_int_handler)
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        say("Ended", "the page is not served any more; the run goes on")
    finally:
        server.server_close()
    return told


class Watched:
    """Makes the page of runs: title, lead and body. Keeps the metrics that were read."""

    def __init__(self, paths: list[Path], axis: str) -> None:
        self.paths, self.axis = paths, axis
        self._kept: dict[Path, Metrics] = {}

    def __call__(self) -> tuple[str, str, str]:
        there = [path for path in self.paths if is_run(path)]
        waiting = "".join(
            f'<p class="state">Waiting for <code>{text(path)}</code>: no run has begun there.</p>'
            for path in self.paths
            if path not in there
        )
        if not there:
            return "Waiting for a run", waiting, ""
        runs = read_runs(there, self._kept)
        lead, body = page_parts(runs, self.axis)
        if len(runs) > 1:
            return " / ".join(run.name for run in runs), lead + waiting, body
        return f"{runs[0].name}: {state_of(runs[0])[0]}", lead + waiting, body


def _empty(path: Path) -> bool:
    """A folder in which a run may begin, or is just beginning."""
    try:
        return path.is_dir() and set(os.listdir(path)) <= {".lock"}
    except OSError:
        return False


def _here() -> str:
    """Who and where, as ssh wants it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "USER"
    return f"{user}@{os.uname().nodename}"
