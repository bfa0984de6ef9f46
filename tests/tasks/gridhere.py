"""Cells of a grid in this process, for tests: a process each would import torch again and again."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar

import pytest

from openmae.errors import OpenMAEError
from openmae.tasks import gridstudy
from openmae.tasks.grid import Cell
from openmae.tasks.gridcell import run_cell
from openmae.tasks.gridrun import Processes


class Here(Processes):
    """Runs a cell when it is started; the names of those it ran are in `ran`."""

    ran: ClassVar[list[str]] = []
    errors: ClassVar[dict[str, BaseException]] = {}
    """What to raise instead of the cell of a name that begins so."""

    def __init__(self, count: int | None, device: str) -> None:
        super().__init__(count, device)
        self.done: list[tuple[Cell, int, str]] = []

    def start(self, folder: Path, cell: Cell) -> None:
        Here.ran.append(cell.name)
        log = (folder / "log.txt").open("a")
        with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                for name, error in self.errors.items():
                    if cell.name.startswith(name):
                        raise error
                end = run_cell(folder).exit_code, ""
            except OpenMAEError as error:
                end = error.exit_code, str(error)
        self.done.append((cell, *end))

    def room(self) -> bool:
        return not self.done

    def ended(self) -> list[tuple[Cell, int, str]]:
        done, self.done = self.done, []
        return done


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The grids of a test run in its process; returns the class with what it ran."""
    monkeypatch.setattr(gridstudy, "Processes", Here)
    Here.ran, Here.errors = [], {}
    return Here
