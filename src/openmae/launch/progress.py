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

    def look(self, reports: Path) -> None:
        """Read which folder it is."""
        path = run_folder(reports)
        self.run = self.run if path is None else RunFolder(path)

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
    def micro_batch(self) -> int | None:
        """Images at a time, where the run may lower it by itself; else None."""
        if not self.begun or self.run is None:
            return None
        try:
            values = self.run.read_config()
        except StorageError:
            return None
        auto = values.get("micro_batch") == "auto"
        return int(values["resolved"].get("micro_batch") or 0) if auto else None
