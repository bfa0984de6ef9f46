"""What `report` and `watch` share: runs are read, and made into a page. Imports torch only
where runs of different methods stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openmae.config import TASKS, settings
from openmae.config.base import shown
from openmae.config.recipe import read_recipe, read_yaml, shipped
from openmae.engine.runfolder import CONFIG
from openmae.errors import DataError, UsageError
from openmae.report import runpage, runspage
from openmae.report.curves import Panel, panels_of, shared_panels
from openmae.report.metricsfile import Metrics
from openmae.report.rundata import RunData, marks_of, read_run
from openmae.report.runpage import About, command
from openmae.tasks.differences import differences, named

_TRACES = (CONFIG, "status.json", "metrics.jsonl", "environment.json")


def paths_of(words: Sequence[str]) -> list[Path]:
    """Run folders as given.

    Raises:
        UsageError: one of them twice.
    """
    paths = [Path(word).expanduser() for word in words]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("the same run twice: give each one once")
    return paths


def is_run(path: Path) -> bool:
    """Whether there is a run, or what is left of one."""
    return any((path / name).is_file() for name in _TRACES)


def require_run(path: Path) -> None:
    """Raise DataError unless there is a run, or what is left of one."""
    if is_run(path):
        return
    if not path.exists():
        raise DataError(f"{path} does not exist. Give the folder of a run: its --out")
    inside = sorted(p.parent for p in path.glob(f"*/{CONFIG}"))[:3] if path.is_dir() else []
    hint = f" Did you mean {inside[0]}?" if inside else " Give its --out"
    raise DataError(f"{path} is no run folder: it has neither {CONFIG} nor metrics.jsonl.{hint}")


def read_runs(paths: Sequence[Path], kept: dict[Path, Metrics] | None = None) -> list[RunData]:
    """The runs, as far as they can be read; `kept` metrics are brought up to date."""
    kept = {} if kept is None else kept
    runs = []
    for path, name in zip(paths, named(list(paths)), strict=True):
        try:
            config: dict[str, Any] | None = read_yaml(path / CONFIG)
        except UsageError:
            config = None
        run = read_run(path, name, config, kept.get(path))
        kept[path] = run.metrics
        runs.append(run)
    return runs


def axis_of(axis: str, count: int) -> str:
    """ "auto" is steps of one run, and images of several: batches may differ."""
    return axis if axis != "auto" else "images" if count > 1 else "steps"


def page_parts(runs: Sequence[RunData], axis: str) -> tuple[str, str]:
    """Lead and body of the page."""
    axis = axis_of(axis, len(runs))
    if len(runs) == 1:
        return runpage.lead(runs[0]), runpage.body(runs[0], about(runs[0]), axis)
    differ = differences({r.name: (r.config, r.resolved) for r in runs})
    return runspage.lead(runs), runspage.body(runs, differ, _commands_of(runs), axis)


def page_of(runs: Sequence[RunData], axis: str) -> str:
    """The whole page."""
    axis = axis_of(axis, len(runs))
    if len(runs) == 1:
        return runpage.page(runs[0], about(runs[0]), axis)
    differ = differences({r.name: (r.config, r.resolved) for r in runs})
    return runspage.page(runs, differ, _commands_of(runs), axis)


def drawn(runs: Sequence[RunData], axis: str) -> list[Panel]:
    """The curves of that page."""
    axis = axis_of(axis, len(runs))
    if len(runs) == 1:
        return panels_of(runs[0].metrics, axis, marks_of(runs[0]))
    return shared_panels({run.name: run.metrics for run in runs}, axis)


def about(run: RunData) -> About:
    """In what a run differs from its recipe, or from what its command does by itself; commands."""
    if run.task not in TASKS or not run.config:
        return About((), "", _commands(run))
    fields = settings(run.task).model_fields
    usual: dict[str, Any] = {
        n: f.get_default(call_default_factory=True)
        for n, f in fields.items()
        if not f.is_required()
    }
    recipe = run.resolved.get("recipe")
    words = f"what openmae {run.task} does by itself"
    if isinstance(recipe, str) and recipe in shipped(run.task):
        usual |= read_recipe(run.task, recipe)
        words = f"the recipe {recipe}"
    own = ("task", "data", "out", *run.config.keys() - fields.keys())
    found = [
        (name, _shown(value), _shown(usual.get(name)))
        for name, value in run.config.items()
        if name not in own and name in usual and _shown(value) != _shown(usual[name])
    ]
    return About(found, words, _commands(run))


def _shown(value: object) -> str:
    told = "none" if value is None or value in ([], ()) else shown(value)
    return told if len(told) <= 300 else told[:300] + " ..."


def _commands(run: RunData) -> list[tuple[str, str]]:
    """What may be done next, to paste."""
    path, data = run.path, str(run.config.get("data") or "DATA")
    found = []
    if run.task in ("pretrain", "tokenize", "finetune", "segment", "detect"):
        first = [run.config["model"]] if run.task in ("finetune", "segment", "detect") and (
            run.config.get("model")) else []  # fmt: skip
        again = command(run.task, *first, data, "--recipe", path / CONFIG, "--out", path)
        found.append((again, "Continue it, or see that it is finished"))
    if run.task == "pretrain":
        found += [
            (command("reconstruct", path, data, "-o", "reconstruction.png"), "Look")
        ] if run.config.get("method", "mae") == "mae" else []  # fmt: skip
        found += [
            (command("probe", path, "LABELLED_FOLDER"), "Score it"),
            (command("finetune", path, "LABELLED_FOLDER"), "Train a classifier on it"),
            (command("embed", path, data, "-o", "features.npz"), "Vectors of images"),
        ]
    elif run.task in ("finetune", "segment", "detect"):
        word = [] if run.task == "finetune" else [run.task]
        out = "predictions.csv" if run.task == "finetune" else "predictions"
        found.append((command(*word, "predict", path, "IMAGES", "-o", out), "Use it"))
        found.append((command(*word, "evaluate", path, "LABELLED"), "Score it on other images"))
    found.append((command("watch", path), "Watch it in the browser"))
    found.append((command("report", path), "Make this page again"))
    return found


def _commands_of(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    paths = [run.path for run in runs]
    found = [(command("report", *paths), "Make this page again")]
    if all(run.task == "pretrain" for run in runs):
        found.insert(0, (command("compare", *paths), "A table with scores, seeds and intervals"))
    pages = ((command("report", run.path), f"The page of {run.name}") for run in runs[:8])
    return [*found, *pages]
