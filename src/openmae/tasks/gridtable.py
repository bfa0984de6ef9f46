"""The table of a grid, as plain values: what a person reads, and what CSV, JSON and HTML hold."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openmae.engine.textfile import write_text
from openmae.tasks.grid import Grid, Row, Scoring
from openmae.tasks.gridrun import state_of
from openmae.tasks.gridstats import marks, spread

NAMES = {"probe": "linear probe", "knn": "k-NN", "finetune": "fine-tuning"}
COSTS = ("loss", "images_seen", "seconds", "images_per_s", "gflop_per_image", "parameters")
METHOD = (
    "mean and 95 % interval over seeds (Student's t): says nothing of other test images",
    "not separable: p >= 0.05 against the best row (Welch's t-test, unpaired, Holm over the rows)",
)


def build(study: Path, grid: Grid, about: Mapping[str, Any]) -> dict[str, Any]:
    """The whole table from what is on the disk; rows that are not finished say so."""
    rows = [_row(study, grid, row) for row in grid.rows]
    kinds = list(dict.fromkeys(name for row in grid.rows for name in row.scorings))
    for name in kinds:
        mark_rows(rows, name)
    return {
        **about,
        "labels": list(dict.fromkeys(n for row in grid.rows for n in row.labels)),
        "scores": [{"key": name, "name": title(name)} for name in kinds],
        "rows": rows,
        "baselines": baselines(rows, kinds),
        "unfinished": [one for row in rows for one in row.pop("unfinished")],
        "protocol": protocol(rows, kinds),
        "statistics": list(METHOD),
    }


def title(key: str) -> str:
    """A score as people call it; with its images where it names some."""
    kind, _, data = key.partition(":")
    return NAMES[kind] + (f" on {Path(data).name}" if data else "")


def mark_rows(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Put "best", "not separable" ... into the rows that have a score."""
    values = {
        i: row["scores"][name]["values"] for i, row in enumerate(rows) if name in row["scores"]
    }
    for i, (mark, p) in marks({i: v for i, v in values.items() if v}).items():
        rows[i]["scores"][name] |= {"mark": mark, "p": p}


def _row(study: Path, grid: Grid, row: Row) -> dict[str, Any]:
    states = {seed: state_of(study, grid.cells[name]) for seed, name in row.cells.items()}
    done = {seed: s for seed, s in states.items() if s["state"] == "done"}
    scores = {}
    for name, scoring in row.scorings.items():
        found = _score(scoring, done)
        nets = {grid.cells[n].network for n in row.cells.values()}
        scores[name] = found | {"baselines": _baseline(study, scoring, nets)} if found else {}
    unfinished = [
        {"row": dict(row.labels), "seed": seed, "cell": row.cells[seed], "state": s["state"],
         "reason": s.get("reason", "")}
        for seed, s in states.items()
        if s["state"] != "done"
    ]  # fmt: skip
    return {
        "labels": dict(row.labels),
        "budget": row.budget,
        "floor": [grid.cells[n].network for n in row.cells.values()]
        + [scoring.key for scoring in row.scorings.values()],
        "planned": len(row.cells),
        "n": len(done),
        "seeds": sorted(done),
        "cells": {seed: row.cells[seed] for seed in row.cells},
        "scores": {name: found for name, found in scores.items() if found},
        **{name: _mean(done, name) for name in COSTS},
        "diverged": sum(s["state"] == "diverged" for s in states.values()),
        "skipped_steps": sum(s["pretraining"].get("skipped_steps", 0) for s in done.values()),
        "unfinished": unfinished,
    }


def _mean(done: Mapping[int, Mapping[str, Any]], name: str) -> float | None:
    """A cost over the finished cells: their median, as one of them may have waited for others."""
    found = [s["pretraining"].get("loss") if name == "loss" else s.get(name) for s in done.values()]
    known = [float(v) for v in found if v is not None]
    return statistics.median(known) if known else None


def accuracy(kind: str, result: Mapping[str, Any]) -> float | None:
    """The one number of a score's results.json."""
    value = result.get("accuracy" if kind == "finetune" else f"{kind}_accuracy")
    return result.get("mAP") if value is None else float(value)


def _score(scoring: Scoring, done: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    results = {seed: s["scores"][scoring.key] for seed, s in done.items()}
    values = {seed: accuracy(scoring.kind, r) for seed, r in results.items()}
    kept = [v for v in values.values() if v is not None]
    if not kept:
        return {}
    first = next(iter(results.values()))
    how = {n: first.get(n) for n in ("n", "n_train", "how", "features", "data")}
    how |= {"majority": first.get("majority_accuracy"), "kind": scoring.kind}
    how |= {"settings": dict(scoring.settings), "data": scoring.data}
    return {**asdict(spread(kept)), "values": kept, "seeds": list(values), "test": how}


def _baseline(study: Path, scoring: Scoring, networks: set[str]) -> dict[str, Any]:
    """Random weights and raw pixels of a row: over its seeds."""
    found: dict[str, list[float]] = {}
    for network in sorted(networks):
        path = study / "baselines" / f"{scoring.key}-{network}.json"
        if path.exists():
            for name, value in json.loads(path.read_text(encoding="utf-8")).items():
                found.setdefault(name, []).append(float(value))
    found = {n: v if n == "random_weights" else v[:1] for n, v in found.items()}  # no seed
    return {name: asdict(spread(values)) for name, values in found.items()}


def baselines(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """A line for each different baseline, with "of": the labels of the rows that it belongs to."""
    lines: list[dict[str, Any]] = []
    for name in ("random_weights", "raw_pixels", "majority"):
        groups: dict[str, list[Mapping[str, Any]]] = {}
        found: dict[str, dict[str, Any]] = {}
        for row in rows:
            own = {k: value for k in kinds if (value := _floor(row, k, name)) is not None}
            if not own:
                continue
            which = [row["floor"] if name == "random_weights" else "", own]
            groups.setdefault(key := json.dumps(which), []).append(row["labels"])
            found[key] = own
        for key, labels in groups.items():
            alike = {n: v for n, v in labels[0].items() if all(o.get(n) == v for o in labels)}
            of = alike if len(groups) > 1 else {}
            lines.append({"name": name.replace("_", " "), "scores": found[key], "of": of})
    return lines


def _floor(row: Mapping[str, Any], kind: str, name: str) -> dict[str, Any] | None:
    """One baseline of a row's score."""
    own = row["scores"].get(kind)
    if own is None:
        return None
    if name != "majority":
        value: dict[str, Any] | None = own["baselines"].get(name)
        return value
    majority = own["test"]["majority"]
    return None if majority is None else {"mean": majority, "low": None, "high": None, "n": 1}


def protocol(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> list[str]:
    """How each score was made, a line each."""
    lines = []
    for kind in kinds:
        own = next((row["scores"][kind] for row in rows if kind in row["scores"]), None)
        if own is None:
            continue
        test = own["test"]
        parts = [title(kind)]
        parts += [f"{test['n_train']:,} training"] if test["n_train"] else []
        parts += [f"{test['n']:,} test images of {test['data']}"] if test["n"] else []
        parts += [str(test[n]) for n in ("how", "features") if test[n]]
        parts += [f"{n}={v}" for n, v in test["settings"].items()]
        lines.append(", ".join(parts))
    return lines


def write_files(study: Path, name: str, table: Mapping[str, Any]) -> None:
    """NAME.json, and NAME.csv with a line for each row and score."""
    write_text(study / f"{name}.json", json.dumps(table, indent=1, default=str) + "\n")
    text = io.StringIO()
    labels = table["labels"]
    heads = [*labels, "score", "mean", "low_95", "high_95", "n", "mark", "p", "random_weights"]
    heads += ["raw_pixels", "majority", "n_test", "planned", "diverged", "skipped_steps", *COSTS]
    writer = csv.DictWriter(text, heads, restval="", lineterminator="\n")
    writer.writeheader()
    for row in table["rows"]:
        shared = {**row["labels"], **{n: row.get(n) for n in COSTS}}
        shared |= {n: row[n] for n in ("planned", "diverged", "skipped_steps")}
        for score in table["scores"]:
            own = row["scores"].get(score["key"], {})
            line: dict[str, Any] = {**shared, "score": score["key"], "n": row["n"]}
            if own:
                line |= {"mean": own["mean"], "low_95": own["low"], "high_95": own["high"]}
                line |= {"mark": own.get("mark"), "p": own.get("p"), "n": own["n"]}
                line |= {n: v["mean"] for n, v in own["baselines"].items()}
                line |= {"majority": own["test"]["majority"], "n_test": own["test"]["n"]}
            writer.writerow({n: v for n, v in line.items() if n in heads})
    write_text(study / f"{name}.csv", text.getvalue())
