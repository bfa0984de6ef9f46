"""Runs that are there already, side by side: those that differ in the seed alone are one row."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openmae.config.ablate import parse_score, parse_score_arg
from openmae.config.base import Options, extra_of
from openmae.config.compare import CompareConfig
from openmae.config.pretrain import PretrainConfig
from openmae.engine.log import say
from openmae.engine.runfolder import CONFIG, Results, RunFolder, read_jsonl
from openmae.errors import DataError, OpenMAEError, StorageError, UsageError
from openmae.tasks import gridlines, gridtable
from openmae.tasks.differences import differences, named
from openmae.tasks.grid import Scoring, digest
from openmae.tasks.gridcell import run_score
from openmae.tasks.gridcost import flops_of, training_seconds
from openmae.tasks.gridstats import spread

Page = Callable[[Path, Mapping[str, Any]], list[str]]
_OWN = ("out", "seed", "data", "epochs", "steps", "device")


@dataclass
class Known:
    """A run that was read: settings, what was chosen at its start, what it logged."""

    path: Path
    name: str
    settings: PretrainConfig
    resolved: dict[str, Any]
    rows: list[dict[str, Any]]
    state: str

    @property
    def key(self) -> str:
        """Runs of one key differ in the seed alone."""
        values = self.settings.model_dump(mode="json")
        kept = {n: v for n, v in values.items() if n not in _OWN}
        kept = {n: v for n, v in kept.items() if extra_of(PretrainConfig, n)["change"] != "free"}
        return digest([kept, self.resolved["total_steps"], self.resolved["data_hash"]])


def read_run(path: Path, name: str) -> Known:
    """A run folder of pretrain.

    Raises:
        DataError: it is none.
    """
    if not (path / CONFIG).is_file():
        raise DataError(
            f"{path} is no run folder. Give folders of `openmae pretrain`, or --methods"
        )
    folder = RunFolder(path)
    saved = folder.read_config()
    if saved.pop("task", "pretrain") != "pretrain":
        raise DataError(f"{path} is not a run of pretrain. Give the run that it began from")
    resolved = saved.pop("resolved")
    if "total_steps" not in resolved:
        raise StorageError(f"{path / CONFIG} is not the configuration of a run")
    settings = PretrainConfig.model_validate(saved)
    state = str(folder.read_status().get("state", "unknown"))
    return Known(path, name, settings, resolved, read_jsonl(folder.metrics), state)


def compare_runs(config: CompareConfig, options: Options, page: Page) -> Results:
    """Print and write the table of runs; with --score they are scored first."""
    if config.budget is not None or config.pretraining():
        name = "budget" if config.budget else min(config.pretraining())
        raise UsageError(f"{options.spell(name)} is for --methods: these runs are there already")
    paths = [Path(p).expanduser() for p in (config.data, *config.runs)]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("the same run twice: give each one once")
    runs = [read_run(path, name) for path, name in zip(paths, named(paths), strict=True)]
    groups: dict[str, list[Known]] = {}
    for run in runs:
        groups.setdefault(run.key, []).append(run)
    scorings = _asked(config)
    if options.dry_run:
        say("Dry run", f"{len(runs)} runs in {len(groups)} rows; nothing was written")
        return Results({"rows": len(groups), "runs": len(runs), "dry_run": True})
    out = Path(config.out or "runs/comparison").expanduser()
    if (out / CONFIG).exists():
        raise StorageError(f"{out} is a run folder. Give another --out")
    out.mkdir(parents=True, exist_ok=True)
    rows = [_row(group, scorings, out) for group in groups.values()]
    table = _table(rows, list(groups.values()), out)
    files = ["comparison.json", "comparison.csv"]
    gridtable.write_files(out, "comparison", table)
    files += page(out, table)
    gridlines.tell(table, [str(out / file) for file in files])
    for name, values in list(table["differences"].items())[:12]:
        known = (f"{row} {value}" for row, value in values.items() if value)
        say("Differ", f"{name}: " + ", ".join(known))
    found = [{**r["labels"], **{k: s["mean"] for k, s in r["scores"].items()}} for r in rows]
    return Results({"rows": found, "unfinished": len(table["unfinished"])}, out)


def _asked(config: CompareConfig) -> dict[str, Scoring]:
    """Scores to be made now; without --score those that the runs have."""
    if "score" not in config.model_fields_set:
        return {}
    found = {}
    for word in config.score:
        score = parse_score(word)
        if score.data is None:
            raise UsageError(f"--score {word}: say on which images, --score {word}:LABELLED")
        given = {n: v for k, n, v in map(parse_score_arg, config.score_args) if k == score.kind}
        found[word] = Scoring(score.kind, score.data, given)
    return found


def _row(group: list[Known], scorings: Mapping[str, Scoring], out: Path) -> dict[str, Any]:
    results = [_scores(run, scorings, out) for run in group]
    names = list(dict.fromkeys(name for found in results for name in found))
    scores = {}
    for name in names:
        kind = name.partition(":")[0]
        own = [found[name] for found in results if name in found]
        values = [v for r in own if (v := gridtable.accuracy(kind, r)) is not None]
        if not values:
            continue
        how = {n: own[0].get(n) for n in ("n", "n_train", "how", "features", "data")}
        how |= {"majority": own[0].get("majority_accuracy"), "settings": {}, "kind": kind}
        floors = {
            short: asdict(spread([r[key] for r in own if key in r]))
            for short in ("random_weights", "raw_pixels")
            if any((key := f"{short}_{kind}_accuracy") in r for r in own)
        }
        told = {"values": values, "seeds": [run.settings.seed for run in group]}
        scores[name] = {**asdict(spread(values)), **told, "test": how, "baselines": floors}
    labels = {"run": ", ".join(run.name for run in group)}
    unfinished = [
        {"row": {"run": str(run.path)}, "seed": run.settings.seed, "cell": str(run.path),
         "state": run.state, "reason": f"{_last(run)} of {run.resolved['total_steps']:,} steps"}
        for run in group
        if run.state != "done"
    ]  # fmt: skip
    return {
        "labels": labels,
        "budget": f"{group[0].resolved['total_steps']:,} steps",
        "floor": labels["run"],
        "planned": len(group),
        "n": len(group) - len(unfinished),
        "seeds": [run.settings.seed for run in group],
        "scores": scores,
        **_costs(group[0]),
        "diverged": 0,
        "skipped_steps": sum(r.get("skipped", 0) for run in group for r in run.rows),
        "unfinished": unfinished,
    }


def _last(run: Known) -> int:
    return max((row.get("step", 0) for row in run.rows), default=0)


def _scores(run: Known, scorings: Mapping[str, Scoring], out: Path) -> dict[str, dict[str, Any]]:
    """Results of a run by the name of the score."""
    if not scorings:
        files = [p for kind in gridtable.NAMES for p in run.path.glob(f"{kind}-*/results.json")]
        found = {p.parent.name.replace("-", ":", 1): _json(p) for p in sorted(files)}
        return {name: values for name, values in found.items() if values}
    found = {}
    for name, scoring in scorings.items():
        folder = out / "scores" / f"{scoring.key}-{digest(str(run.path.resolve()))}"
        if not (folder / "results.json").exists():
            ended = run_score(scoring, run.settings, str(run.path), folder, True)
            if ended.exit_code:
                raise OpenMAEError(f"{folder} stopped early. The same command again goes on")
        found[name] = _json(folder / "results.json")
    return found


def _json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        values = json.loads(path.read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}
    return {}


def _costs(run: Known) -> dict[str, Any]:
    """Of the first run of a row; what it logged, and operations by count."""
    seconds, seen = training_seconds(run.rows), _last(run) * run.settings.batch_size
    losses = [row["loss"] for row in run.rows if row.get("loss") is not None]
    flops, parameters, _ = flops_of(run.settings, run.resolved)
    return {
        "loss": losses[-1] if losses else None,
        "images_seen": float(seen),
        "seconds": seconds or None,
        "images_per_s": seen / seconds if seconds else None,
        "gflop_per_image": None if flops is None else flops / 1e9,
        "parameters": float(parameters),
    }


def _table(rows: list[dict[str, Any]], groups: list[list[Known]], out: Path) -> dict[str, Any]:
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    for name in names:
        gridtable.mark_rows(rows, name)
    labels = [row["labels"]["run"] for row in rows]
    firsts = dict(zip(labels, (group[0] for group in groups), strict=True))
    kinds = {(r.settings.method, r.settings.target) for r in firsts.values()}
    notices = [] if names else ["the runs have no scores: --score probe:LABELLED makes them"]
    if len(kinds) > 1:
        notices.append("losses of different methods or targets cannot be compared")
    for name in names:
        ways = {json.dumps(how) for row in rows if (how := _way(row, name))}
        if len(ways) > 1:
            notices.append(f"{gridtable.title(name)} was not made alike for all rows")
    return {
        "title": " / ".join(labels),
        "data": ", ".join(sorted({r.settings.data for r in firsts.values()})),
        "budget": "",
        "seeds": sorted({s for row in rows for s in row["seeds"]}),
        "base": {},
        "labels": ["run"],
        "scores": [{"key": name, "name": gridtable.title(name)} for name in names],
        "rows": rows,
        "baselines": gridtable.baselines(rows, names),
        "unfinished": [one for row in rows for one in row.pop("unfinished")],
        "protocol": gridtable.protocol(rows, names),
        "statistics": list(gridtable.METHOD),
        "notices": notices,
        "differences": differences(
            {label: (dict(run.settings), run.resolved) for label, run in firsts.items()}
        ),
        "curves": _curves(dict(zip(labels, groups, strict=True))) if len(kinds) == 1 else {},
    }


def _way(row: Mapping[str, Any], name: str) -> list[Any]:
    own = row["scores"].get(name)
    return [own["test"][n] for n in ("n", "n_train", "how", "features")] if own else []


def _curves(groups: Mapping[str, list[Known]]) -> dict[str, list[Any]]:
    """Loss over images seen, of each run of each row."""
    found: dict[str, list[Any]] = {}
    for label, group in groups.items():
        for run in group:
            rows = [r for r in run.rows if r.get("loss") is not None]
            batch = run.settings.batch_size
            found.setdefault(label, []).append(
                ([r["step"] * batch for r in rows], [r["loss"] for r in rows])
            )
    return found
