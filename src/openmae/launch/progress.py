"""How far a run came, read from its folder without torch."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from openmae.engine.runfolder import CONFIG, RunFolder, read_jsonl
from openmae.errors import StorageError
from openmae.launch.attempt import run_folder


class Progress:
    """The run folder of some ranks, as soon as they told of it."""

    def __init__(self) -> None:
        self.run: RunFolder | None = None
        self._micro_batch: int | None = None

    def restart(self) -> None:
        """Ranks are about to start."""
        self._micro_batch = None

    def look(self, reports: Path) -> None:
        """Read which folder it is, and how the run begins; called often."""
        path = run_folder(reports)
        self.run = self.run if path is None else RunFolder(path)
        if path is not None and self._micro_batch is None and self.begun:
            self._micro_batch = self._read_micro_batch()

    @property
    def begun(self) -> bool:
        """Whether the folder is a run."""
        return self.run is not None and (self.run.path / CONFIG).is_file()

    @property
    def saved(self) -> int:
        """The step of the newest checkpoint, 0 without one."""
        steps = [0]
        if self.run is not None and self.run.checkpoints.is_dir():
            for path in self.run.checkpoints.glob("step_*"):
                number = path.name.removeprefix("step_")
                if number.isdigit() and (path / "MANIFEST.json").is_file():
                    steps.append(int(number))
        return max(steps)

    @property
    def reached(self) -> int:
        """The last step that was logged."""
        rows: list[dict[str, Any]] = []
        if self.run is not None:
            with contextlib.suppress(OSError):
                rows = read_jsonl(self.run.metrics)[-1:]
        return max(self.saved, *(int(row.get("step") or 0) for row in rows), 0)

    @property
    def lowered(self) -> bool:
        """Whether the run takes fewer images at a time than when its ranks were started."""
        return self._read_micro_batch() < (self._micro_batch or 0)

    def _read_micro_batch(self) -> int:
        """Images at a time, where the run may lower it by itself; else 0."""
        if self.run is None or not self.begun:
            return 0
        try:
            values = self.run.read_config()
        except StorageError:
            return 0
        auto = values.get("micro_batch") == "auto"
        return int(values["resolved"].get("micro_batch") or 0) if auto else 0
