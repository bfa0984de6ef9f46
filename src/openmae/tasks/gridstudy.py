"""A study: a grid with its folder, from the first cell to the last table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from openmae.config.ablate import GridOptions
from openmae.config.base import Options, resolve
from openmae.config.pretrain import PretrainConfig
from openmae.config.recipe import read_recipe
from openmae.data.sources import open_source, open_split
from openmae.engine.device import resolve_device
from openmae.engine.log import duration, say
from openmae.engine.runfolder import Results, RunFolder
from openmae.errors import STOPPED_EARLY, OpenMAEError, StorageError, UsageError
from openmae.tasks import gridlines, gridtable
from openmae.tasks.grid import Cell, Grid
from openmae.tasks.gridcost import step_seconds
from openmae.tasks.gridrun import Processes, Runner, folder_of, left, run_cells, state_of
from openmae.tasks.gridslurm import SlurmJobs
from openmae.tasks.method import build_method, require_method
from openmae.tasks.pretrain import choose_recipe

ONCE: Mapping[str, Any] = {"eval_every": 1e9}
"""Pictures and held-out loss at the end alone, as a grid has many runs."""

Page = Callable[[Path, Mapping[str, Any]], list[str]]


def base_of(
    config: GridOptions, data: str, options: Options, preset: Mapping[str, Any] | None
) -> tuple[dict[str, Any], str]:
    """Settings of pretrain that all rows share, and the name of what they come from: preset or
    recipe, below what was typed.
    """
    typed = config.pretraining()
    recipe = options.recipe
    if preset is not None:
        base, recipe = dict(preset), recipe or "preset"
    elif recipe is None:
        device = resolve_device(config.device)
        recipe = choose_recipe(data, device.type, len(open_source(data)))
        base = read_recipe("pretrain", recipe)
    else:
        base = {}  # its settings are among those that were typed
    common = resolve(PretrainConfig, {"data": data, **typed}, base, options.spell)
    names = common.model_fields_set - {"seed", "out", "gpus"}
    return {**ONCE, **{name: getattr(common, name) for name in names}}, recipe


def split_data(data: str) -> tuple[str, str]:
    """What to pretrain on and what to score on: train/ of a folder that has it beside test/ or
    val/, so that no network sees a test image; else the same for both.
    """
    root = Path(data).expanduser()
    if (root / "train").is_dir() and any((root / n).is_dir() for n in ("test", "val")):
        return str(Path(data) / "train"), data
    return data, data


def require_grid(grid: Grid) -> None:
    """Every run before the first one starts: its images and classes are there, its method can be
    built.

    Raises:
        DataError, UsageError: a mistake in one of them, with its row.
    """
    for data in {cell.config["data"] for cell in grid.cells.values()}:
        open_source(data)
    for row in grid.rows:
        config, half = row.settings, [0.5] * row.settings.channels
        try:
            require_method(config, row.typed)
            with torch.device("meta"):
                build_method(config, {"mean": half, "std": half})
        except UsageError as error:
            told = " ".join(f"{n}={v}" for n, v in row.labels.items())
            raise UsageError(f"{told}: {error}") from None
    for scoring in {(s.data, s.kind) for c in grid.cells.values() for s in c.scorings}:
        open_split(scoring[0], task=scoring[1])


def told_plan(grid: Grid, out: Path, config: GridOptions) -> Results:
    """Print the grid with what it will take; nothing is written."""
    require_grid(grid)
    states = {name: state_of(out, cell) for name, cell in grid.cells.items()}
    done = [s for s in states.values() if s["state"] == "done"]
    say("Grid", f"{len(grid.rows)} rows, {len(grid.cells)} runs, {len(done)} of them done ({out})")
    for row in grid.rows:
        labels = "  ".join(f"{n}={v}" for n, v in row.labels.items())
        say("", f"{labels}   {row.budget}   seeds {' '.join(map(str, row.cells))}")
    say("", f"scores: {', '.join(gridtable.title(s) for s in grid.rows[0].scorings)}")
    seconds = _predicted(grid, done)
    at_a_time = runner_of(config, out).count
    if seconds is not None:
        total = seconds * (len(grid.cells) - len(done)) / at_a_time
        say("Time", f"about {duration(total)}, {duration(seconds)} a run, {at_a_time} at a time")
    say("Dry run", "everything fits; nothing was written")
    return Results({"rows": len(grid.rows), "runs": len(grid.cells), "dry_run": True}, out)


def runner_of(config: GridOptions, out: Path) -> Runner:
    """Processes here, or jobs of a cluster.

    Raises:
        UsageError: no cluster here, or its package is missing.
    """
    if not config.slurm:
        return Processes(config.jobs, config.device)
    jobs = SlurmJobs(out, config.slurm, config.jobs)
    jobs.require()
    return jobs


def _predicted(grid: Grid, done: list[dict[str, Any]]) -> float | None:
    """Seconds of a run: by those that are done, else by the minutes they have, else by a few steps
    of the first one, without its loader and its scores.
    """
    if done:
        return sum(s["whole_seconds"] for s in done) / len(done)
    cells = list(grid.cells.values())
    if all(cell.minutes for cell in cells):
        return sum(60 * (cell.minutes or 0) for cell in cells) / len(cells)
    images = [images_of(cell) for cell in cells]
    return step_seconds(cells[0].settings) * sum(images) / len(images)


def images_of(cell: Cell) -> float:
    """Images that a cell will see."""
    config = cell.settings
    if config.steps:
        return float(config.steps * config.batch_size)
    assert config.epochs is not None
    return float(config.epochs * len(open_source(config.data)))


def study_of(
    config: GridOptions, grid: Grid, out: Path, name: str, about: Mapping[str, Any], page: Page
) -> Results:
    """Run what is missing of a grid, then print and write its table; exit code 75 after a stop."""
    require_grid(grid)
    folder = RunFolder(out)
    task = "ablate" if name == "ablation" else "compare"
    if folder.exists() and (old := folder.read_config().get("task")) != task:
        raise StorageError(f"{out} is a run of `openmae {old}`. Give another --out")
    with folder.lock():
        folder.write_config(task, config.model_dump(mode="json"), {"cells": list(grid.cells)})
        folder.status("running", 0, len(grid.cells))
        reason = _run(config, grid, folder)
        table = gridtable.build(out, grid, about)
        files = [f"{name}.json", f"{name}.csv"]
        gridtable.write_files(out, name, table)
        files += page(out, table)
        count = sum(row["n"] for row in table["rows"])
        state = "stopped" if reason else "failed" if table["unfinished"] else "done"
        folder.status(state, count, len(grid.cells), reason or "", STOPPED_EARLY if reason else 0)
    say("")
    gridlines.tell(table, [str(out / file) for file in files])
    if reason:
        say("Stopped", f"{reason}. The same command again does the rest")
    elif table["unfinished"]:
        say("Next", "the same command again tries the unfinished ones once more")
    return _results(table, out, STOPPED_EARLY if reason else 0)


def _run(config: GridOptions, grid: Grid, folder: RunFolder) -> str | None:
    cells, out = list(grid.cells.values()), folder.path
    states = [state_of(out, cell)["state"] for cell in cells]
    done = sum(state in ("done", "diverged") for state in states)
    runner = runner_of(config, out)
    say("Grid", f"{len(grid.rows)} rows x {config.seeds} seeds: {len(cells)} runs in {out}")
    say("", f"{done} of them are done, {runner.count} at a time")
    took = [s["whole_seconds"] for c in cells if "whole_seconds" in (s := state_of(out, c))]
    ended = done

    def told(cell: Cell, values: Mapping[str, Any]) -> None:
        nonlocal ended
        ended += 1
        head = f"{ended} of {len(cells)}  {_called(grid, cell)}: "
        if values["state"] != "done":
            say("Run", f"{head}{values['state']}, {values['reason']}")
            _require_sense(cell, values, ended == 1, out)
            return
        took.append(values["whole_seconds"])
        shown = [
            f"{gridtable.NAMES[s.kind]} {100 * found:.1f} %"
            for s in cell.scorings
            if (found := gridtable.accuracy(s.kind, values["scores"][s.key])) is not None
        ]
        rest = left(took, len(cells) - ended, runner.count)
        say("Run", f"{head}{', '.join(shown)}, {duration(values['whole_seconds'])}{rest}")
        folder.status("running", ended, len(cells))

    return run_cells(out, cells, runner, config.keep_checkpoints, told)


def _called(grid: Grid, cell: Cell) -> str:
    labels = next(row.labels for row in grid.rows if cell.name in row.cells.values())
    return f"{' '.join(f'{n}={v}' for n, v in labels.items())} seed {cell.config['seed']}"


def _require_sense(cell: Cell, values: Mapping[str, Any], first: bool, out: Path) -> None:
    """The first cell of all fails by a mistake of the user: the others would too.

    Raises:
        OpenMAEError: with its exit code.
    """
    code = values.get("exit_code", 0)
    if not first or values["state"] != "failed" or code < 1:
        return
    error = OpenMAEError(
        f"the first run failed: {values['reason']}\nIts log: {folder_of(out, cell) / 'log.txt'}"
    )
    error.exit_code = code
    raise error


def _results(table: Mapping[str, Any], out: Path, code: int) -> Results:
    """What the command returns: the rows with their means."""
    rows = [
        {**row["labels"], "n": row["n"], **{k: s["mean"] for k, s in row["scores"].items()}}
        for row in table["rows"]
    ]
    return Results({"rows": rows, "unfinished": len(table["unfinished"])}, out, code)
