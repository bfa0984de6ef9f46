"""When checkpoints are saved, and what happens when the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from openmae.engine import checkpoint
from openmae.engine.background import Snapshot, Writer
from openmae.engine.log import warn
from openmae.engine.memory import available
from openmae.engine.runfolder import RunFolder, gigabytes
from openmae.engine.sharding import is_sharded
from openmae.engine.slow import SAVING, Watch
from openmae.errors import PeerError, StorageError

if TYPE_CHECKING:
    from openmae.engine.loop import Plan, State

_FAILURES = 3  # in a row, before the run ends
_RETRIES = 2  # after EIO, which a cable or a server may cause once
_PAUSE = 1.0  # seconds before a retry


class Saver:
    """Saves the checkpoints of a run. Training goes on after a failed save until three fail in a
    row, or the plan says that one is enough. Other ranks than the first give their parts
    and write nothing.
    """

    def __init__(self, plan: Plan, run: RunFolder, watch: Watch) -> None:
        self.plan, self.run, self.failures = plan, run, 0
        self._verified: set[Path] = set()
        self._writer, self._snapshot = Writer(), Snapshot()
        self._background = plan.background
        self._needed = 0
        self._wait = watch.add(SAVING, self._slow)
        self._saving = 0

    def save(self, state: State, last: bool = False) -> None:
        """Save a step; the last one of a run at once, so that it is there when this returns.

        Raises:
            StorageError: this save or one in the background failed, and it was one too many.
            PeerError: at the last save, rank 0 failed.
        """
        refused: StorageError | None = None
        try:
            self._save(state, last)
        except StorageError as error:
            refused = error
        code = 0 if refused is None else refused.exit_code
        if last and (code := self.plan.world.vote(code)) and refused is None:
            raise PeerError(code)
        if refused is not None:
            raise refused

    def rescue(self, state: State) -> None:
        """Keep what is finished before the run ends with an error, if the disk lets us."""
        with contextlib.suppress(StorageError):
            self._save(state, last=True)
        self.plan.world.barrier()  # nobody ends before it is written: whoever waits for us would

    def check(self) -> None:
        """Learn of a save in the background that has ended; costs nothing otherwise.

        Raises:
            StorageError: it failed, and it was one too many.
        """
        if (ended := self._writer.ended()) is not None:
            self._count(*ended)

    def close(self) -> None:
        """Wait for a save in the background."""
        if (ended := self._writer.wait()) is not None and ended[1] is not None:
            with contextlib.suppress(StorageError):
                self._count(*ended)

    def _save(self, state: State, last: bool) -> None:
        self.plan.world.place.at("save", state.step)
        if not self.plan.world.main:
            checkpoint.contribute(state.method, state.optimizer, state.ema)
            return
        if (ended := self._writer.wait()) is not None:  # one at a time
            try:
                self._count(*ended)
            except StorageError:
                if not last:  # which is tried all the same
                    raise
        self._needed = checkpoint.bytes_needed(state.method, state.ema is not None)
        step, parts = state.step, (state.method, state.optimizer, state.ema)
        record = {
            **(self.plan.record or {}),
            **({"skipped": state.skipped} if state.skipped else {}),
        }
        if last or not self._background or not self._room(state):
            retries = 0 if is_sharded(state.method) else _RETRIES  # the others give once
            write = partial(checkpoint.save, self.run.checkpoints, step, *parts, record)
            try:
                self._run(step, write, retries)
                error = None
            except OSError as refused:
                error = refused
            self._count(step, error, last)
            return
        copies = self._snapshot.take(checkpoint.contents(*parts))
        ready = self._snapshot.ready(self.plan.device)
        write = partial(checkpoint.write, self.run.checkpoints, step, copies, record)
        self._writer.start(step, partial(self._run, step, write, _RETRIES, ready))

    def _room(self, state: State) -> bool:
        """Whether the memory of the CPU has room for copies; asked until there are some."""
        if is_sharded(state.method):
            self._background = False
        elif not self._snapshot.holds:
            free = available(torch.device("cpu"))
            if free is not None and 2 * self._needed > free:
                warn(
                    f"checkpoints are saved while training waits: a copy of"
                    f" {gigabytes(self._needed)} is too much for {gigabytes(free)} of free memory"
                )
                self._background = False
        return self._background

    def _run(
        self,
        step: int,
        write: Callable[[], Any],
        retries: int,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """The save itself, here or in the thread."""
        self._saving = step
        with self._wait:
            ready()
            for attempt in range(retries + 1):
                try:
                    write()
                    break
                except OSError as error:
                    if error.errno != errno.EIO or attempt == retries:
                        raise
                time.sleep(_PAUSE)
            checkpoint.prune(self.run.checkpoints, self.plan.keep, self._verified)
        with contextlib.suppress(OSError):  # only scripts read it
            self.run.status("running", step, self.plan.total)

    def _slow(self, time_taken: str) -> str:
        return f"saving step {self._saving} in {self.run.checkpoints} takes {time_taken} already"

    def _count(self, step: int, error: BaseException | None, last: bool = False) -> None:
        """Go on after a save, or end the run."""
        if error is None:
            self.failures = 0
            return
        if not isinstance(error, OSError):
            raise error
        self.failures += 1
        text = (
            f"checkpoint of step {step} not saved in {self.run.checkpoints}:"
            f" {error.strerror or error} (needs {gigabytes(self._needed)}, {self._free()}). Earlier"
            " ones are intact"
        )
        if last or self.failures >= _FAILURES or self.plan.on_save_error == "stop":
            raise StorageError(f"{text}. {_fix(error)}, then run the same command again") from None
        warn(f"{text}; training goes on ({self.failures} of {_FAILURES})")

    def _free(self) -> str:
        try:
            return f"{gigabytes(shutil.disk_usage(self.run.path).free)} free"
        except OSError as error:
            return f"free space unknown: {error.strerror}"


def _fix(error: OSError) -> str:
    fixes = {
        errno.EROFS: "Mount it for writing",
        errno.ESTALE: "Mount the network drive again",
        errno.EIO: "Look at the disk",
        errno.EDQUOT: "Free some of the quota",
    }
    return fixes.get(error.errno or 0, "Free some space")
