"""One cell of a grid, in a process of its own: pretrain, score, count, and leave cell.json.

The folder of a cell: job.json (what to do), run/ (the run folder), scores/, cell.json (done), log.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openmae.config.base import Options, resolve
from openmae.config.pretrain import PretrainConfig
from openmae.config.recipe import read_recipe
from openmae.engine.log import say
from openmae.engine.runfolder import Results, RunFolder, read_jsonl
from openmae.engine.textfile import write_text
from openmae.errors import OpenMAEError
from openmae.rank import begin, die_with_parent, heeded
from openmae.tasks import finetune, knn, pretrain, probe
from openmae.tasks.grid import SCORED, Cell, Scoring
from openmae.tasks.gridcost import flops_of, training_seconds

_TASKS = {"probe": probe, "knn": knn, "finetune": finetune}
_SHORTEST, _LONGEST = 5.0, 60.0  # seconds of a run that only measures its speed


def main() -> None:
    """The process of a cell; its argument is the cell's folder."""
    die_with_parent()
    begin(["pretrain"])
    try:
        code = run_cell(Path(sys.argv[1]), _stop_at_once).exit_code
    except OpenMAEError as error:
        print(f"openmae: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


def run_cell(folder: Path, trained_now: Callable[[], None] = lambda: None) -> Results:
    """Do what is not done yet of a cell; exit code 75 where it was asked to stop. `trained_now` is
    called between pretraining and scores.
    """
    start = time.monotonic()
    told = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    keep = bool(told.pop("keep_checkpoints"))
    cell, study = Cell.from_json(told), folder.parent.parent
    config = cell.settings.model_copy(update={"out": str(folder / "run")})
    if cell.minutes is not None:
        steps = steps_of(cell, config, study)
        config = config.model_copy(update={"steps": steps, "epochs": None})
    trained = pretrain.run(config, Options(recipe=cell.recipe))
    if trained.exit_code:
        return trained
    trained_now()
    scores: dict[str, Any] = {}
    for scoring in cell.scorings:
        found = _scored(cell, scoring, config, folder)
        if isinstance(found, Results):  # stopped early
            return found
        scores[scoring.key] = found
    cost = _cost(folder / "run", config)
    values = {"state": "done", "seed": config.seed, **cost, "pretraining": dict(trained)}
    values["whole_seconds"] = time.monotonic() - start
    write_text(folder / "cell.json", json.dumps({**values, "scores": scores}, indent=1) + "\n")
    if not keep:
        shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)
    return Results(values, folder)


def _stop_at_once() -> None:
    """From here on what was done is on the disk, and a score is soon made again."""
    for number in heeded():
        signal.signal(number, signal.SIG_DFL)


def _scored(
    cell: Cell, scoring: Scoring, config: PretrainConfig, folder: Path
) -> dict[str, Any] | Results:
    """The result of a score, from the disk where it is there; baselines once a network."""
    path = folder / "scores" / f"{scoring.key}.json"
    baseline = folder.parent.parent / "baselines" / f"{scoring.key}-{cell.network}.json"
    if not path.exists():
        out = folder / "scores" / scoring.key
        results = run_score(scoring, config, str(folder / "run"), out, not baseline.exists())
        if results.exit_code:
            return results
        assert results.folder is not None
        whole = (results.folder / "results.json").read_text(encoding="utf-8")  # says how
        _keep(path, json.loads(whole))
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not baseline.exists():
        if scoring.kind == "finetune":
            out = baseline.with_suffix("")
            twin = run_score(scoring, config, str(folder / "run"), out, True, random_weights=True)
            if twin.exit_code:
                return twin
            _keep(baseline, {"random_weights": twin["accuracy"]})
        elif f"random_weights_{scoring.kind}_accuracy" in values:
            kind = scoring.kind
            names = {"random_weights": f"random_weights_{kind}_accuracy"}
            names |= {"raw_pixels": f"raw_pixels_{kind}_accuracy"}
            _keep(baseline, {name: values[key] for name, key in names.items()})
    return values


def _keep(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values, indent=1, default=str) + "\n")


def run_score(
    scoring: Scoring,
    config: PretrainConfig,
    run: str,
    out: Path,
    baselines: bool,
    random_weights: bool = False,
) -> Results:
    """Score a run folder or encoder file in this process; seed, device and loader as it had."""
    out.parent.mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {"model": run, "data": scoring.data, "out": str(out)}
    given |= {"seed": config.seed, "device": config.device}
    given |= {} if config.workers is None else {"workers": config.workers}
    given |= scoring.settings
    recipe = given.pop("recipe", None)
    base = None
    if scoring.kind == "finetune":
        given |= {"random_weights": True, "layer_decay": 1.0} if random_weights else {}
        base = read_recipe("finetune", str(recipe)) if recipe else None
    else:
        given["baselines"] = baselines
    task: Any = _TASKS[scoring.kind]
    found: Results = task.run(resolve(SCORED[scoring.kind], given, base), Options(recipe=recipe))
    return found


def steps_of(cell: Cell, config: PretrainConfig, study: Path) -> int:
    """The steps of a cell that has minutes: by its own speed, measured once and kept, so that all
    seeds of a setting and every later run of the command have the same number.
    """
    path = study / "speeds" / f"{cell.speed}.json"
    if not path.exists():
        assert cell.minutes is not None
        rate = speed_of(config, cell.recipe, 0.05 * 60 * cell.minutes)
        steps = max(1, math.floor(60 * cell.minutes * rate / config.batch_size))
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f".{path.name}-{os.getpid()}")
        own.write_text(json.dumps({"steps": steps, "images_per_s": rate}), encoding="utf-8")
        try:
            os.link(own, path)  # of two processes that measured at once the first one counts
            say("Budget", f"{cell.minutes:g} minutes at {rate:,.0f} images/s: {steps:,} steps")
        except FileExistsError:
            pass
        finally:
            own.unlink()
    return int(json.loads(path.read_text(encoding="utf-8"))["steps"])


def speed_of(config: PretrainConfig, recipe: str, seconds: float) -> float:
    """Images a second of a short run with these settings, loader included, as the median of its
    windows after the first.
    """
    seconds = min(_LONGEST, max(_SHORTEST, seconds))
    while True:
        with tempfile.TemporaryDirectory(prefix="openmae-speed-") as folder:
            more = {"out": f"{folder}/run", "steps": 1_000_000, "epochs": None, "log_every": 1}
            more |= {"time_limit": f"{math.ceil(seconds)}s", "save_every": 10**9, "val": None}
            more |= {"knn": False, "keep": 2, "warmup_epochs": 0.0}
            pretrain.run(config.model_copy(update=more), Options(recipe=recipe))
            rows = read_jsonl(Path(folder) / "run" / "metrics.jsonl")
        rates = [row["images_per_s"] for row in rows if row.get("images_per_s")]
        if len(rates) > 1 or (rates and seconds > _LONGEST):
            return statistics.median(rates[1:] or rates)
        if seconds > 64 * _LONGEST:
            raise OpenMAEError("its speed cannot be measured. Give --budget steps= or images=")
        seconds *= 2


def _cost(run: Path, config: PretrainConfig) -> dict[str, Any]:
    """What pretraining took: seconds of its steps, images, operations, parameters."""
    folder = RunFolder(run)
    saved, rows = folder.read_config(), read_jsonl(folder.metrics)
    seconds, seen = training_seconds(rows), saved["resolved"]["total_steps"] * config.batch_size
    flops, parameters, encoder = flops_of(config, saved["resolved"])
    return {
        "seconds": seconds,
        "images_seen": seen,
        "images_per_s": seen / seconds if seconds else None,
        "gflop_per_image": None if flops is None else flops / 1e9,
        "parameters": parameters,
        "encoder_parameters": encoder,
        "steps": saved["resolved"]["total_steps"],
        "device": saved["resolved"]["device"],
        "threads": saved["resolved"]["threads"],
    }
