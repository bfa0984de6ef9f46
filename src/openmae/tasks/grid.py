"""A grid of runs as a plan: rows of a table, each with one cell a seed. Nothing runs here.

A cell is one pretraining run with its scores. Its name holds a hash of its settings, so that the
same command finds what is done, and a grid that grew only runs what is new.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from openmae.config.ablate import Budget, Varied, parse_score, parse_score_arg
from openmae.config.base import Settings, extra_of, resolve
from openmae.config.evaluate import KnnConfig, ProbeConfig
from openmae.config.finetune import FinetuneConfig
from openmae.config.pretrain import PretrainConfig
from openmae.errors import UsageError, did_you_mean

SCORED: dict[str, type[Settings]] = {
    "probe": ProbeConfig,
    "knn": KnnConfig,
    "finetune": FinetuneConfig,
}
_OWN = ("out", "seed", "gpus")
_LENGTHS = ("epochs", "steps")
_NETWORK = (
    "model", "dim", "depth", "heads", "image_size", "patch_size", "channels", "bands", "registers",
    "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """What one row of the table changes: settings of pretrain, of scores, perhaps a budget."""

    labels: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    budget: Budget | None = None
    recipe: str = ""


@dataclass(frozen=True)
class Scoring:
    """One score of one cell: settings beyond model, data, out, seed and device."""

    kind: str
    data: str
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Names its folder within the cell."""
        return f"{self.kind}-{digest([self.data, dict(self.settings)])}"


@dataclass
class Cell:
    """One pretraining run and what it is scored on, as its process is told (job.json)."""

    name: str
    config: dict[str, Any]  # of PretrainConfig, what was given: some methods refuse the rest
    recipe: str
    minutes: float | None
    speed: str  # cells of one speed key have one number of steps
    network: str  # cells of one network key have one baseline
    scorings: list[Scoring]

    @property
    def settings(self) -> PretrainConfig:
        """Its settings of pretrain."""
        return PretrainConfig.model_validate(self.config)

    def to_json(self) -> dict[str, Any]:
        """For job.json."""
        values = asdict(self) | {"scorings": [asdict(s) for s in self.scorings]}
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        """Of job.json."""
        scorings = [Scoring(**s) for s in values["scorings"]]
        return cls(**{**values, "scorings": scorings})


@dataclass
class Row:
    """A row of the table: its cells by seed, and its scores by kind."""

    labels: Mapping[str, str]
    cells: dict[int, str]
    scorings: dict[str, Scoring]
    settings: PretrainConfig
    budget: str
    typed: frozenset[str]
    """Names of settings that must mean something to its method; a recipe may have others."""


@dataclass
class Grid:
    """All rows, and the cells in the order in which they run: seed after seed."""

    rows: list[Row]
    cells: dict[str, Cell]


def digest(values: Any) -> str:
    """Six letters that stand for some values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=3).hexdigest()


def combine(varied: Iterable[Varied], budget_of: Callable[[str], Budget]) -> list[Arm]:
    """All combinations of varied settings.

    Raises:
        UsageError: no such setting.
    """
    axes = [[_arm(v.name, value, budget_of) for value in v.values] for v in varied]
    return [_joined(parts) for parts in itertools.product(*axes)]


def cross(arms: Iterable[Arm], more: Iterable[Arm]) -> list[Arm]:
    """Every one of the first with every one of the second."""
    return [_joined(pair) for pair in itertools.product(arms, more)]


def _joined(parts: Iterable[Arm]) -> Arm:
    labels: dict[str, str] = {}
    settings: dict[str, Any] = {}
    scores: dict[str, dict[str, Any]] = {}
    budget, recipe = None, ""
    for part in parts:
        labels |= part.labels
        settings = merged(settings, part.settings)
        for kind, own in part.scores.items():
            scores[kind] = {**scores.get(kind, {}), **own}
        budget, recipe = part.budget or budget, part.recipe or recipe
    return Arm(labels, settings, scores, budget, recipe)


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Settings on top of others; NAME=VALUE words of one list are joined by their name."""
    found = {**base, **more}
    for name in base.keys() & more.keys():
        if name.endswith("_args"):
            words = [*base[name], *more[name]]
            found[name] = list({w.partition("=")[0]: w for w in words}.values())
    return found


def _arm(name: str, value: str, budget_of: Callable[[str], Budget]) -> Arm:
    labels = {name: value}
    head, _, tail = name.partition(".")
    if name == "budget":
        return Arm(labels, budget=budget_of(value))
    if tail and head in SCORED:
        _known(name, tail, SCORED[head])
        return Arm(labels, scores={head: {tail: _words(SCORED[head], tail, value)}})
    if tail and head in PretrainConfig.model_fields and head.endswith("_args"):
        return Arm(labels, {head: [f"{tail}={value}"]})
    if name != "data":
        _known(name, name, PretrainConfig)
    return Arm(labels, {name: _words(PretrainConfig, name, value)})


def _known(spelt: str, name: str, model: type[Settings]) -> None:
    places = {n for n in model.model_fields if extra_of(model, n)["positional"]}
    if name in (*_OWN, *places):
        raise UsageError(f"--vary {spelt}: a grid decides that itself. Vary another setting")
    if name not in model.model_fields:
        near = did_you_mean(name, [n for n in model.model_fields if n not in _OWN])
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"--vary {spelt}: no such setting.{hint}")


def _words(model: type[Settings], name: str, value: str) -> Any:
    """A value of a setting that takes several is split at spaces."""
    several = "tuple" in str(model.model_fields[name].annotation)
    return value.split() if several and " " in value else value


def plan(
    base: Mapping[str, Any],
    arms: Iterable[Arm],
    seeds: Iterable[int],
    budget: Budget | None,
    scores: Iterable[str],
    score_args: Iterable[str],
    labelled: str,
    recipe: str,
    typed: Collection[str] | None = None,
) -> Grid:
    """Every cell with its settings resolved, before anything starts.

    Args:
        base: settings of pretrain that all rows share, `data` among them.
        labelled: images of the scores that name none.
        typed: those of `base` that are not of a recipe; all by default.

    Raises:
        UsageError: a setting of one of them is wrong.
    """
    rows: list[Row] = []
    cells: dict[str, Cell] = {}
    scores, score_args = list(scores), list(score_args)
    numbers = list(seeds)
    for arm in arms:
        asked = _scorings(arm, scores, score_args, labelled)
        row: Row | None = None
        for seed in numbers:
            cell = _cell(base, arm, seed, budget, recipe)
            cell = cells.setdefault(cell.name, cell)
            cell.scorings += [s for s in asked.values() if s not in cell.scorings]
            if row is None:
                told = frozenset(arm.settings).union(base if typed is None else typed)
                row = Row(arm.labels, {}, asked, cell.settings, _length(cell), told)
                rows.append(row)
            row.cells[seed] = cell.name
    order = [row.cells[seed] for seed in numbers for row in rows]
    return Grid(rows, {name: cells[name] for name in order})


def _scorings(
    arm: Arm, scores: list[str], score_args: list[str], labelled: str
) -> dict[str, Scoring]:
    found: dict[str, Scoring] = {}
    for word in scores:
        score = parse_score(word)
        own = [(n, v) for k, n, v in map(parse_score_arg, score_args) if k == score.kind]
        given: dict[str, Any] = {n: v.split() if " " in v else v for n, v in own}
        given |= arm.scores.get(score.kind, {})
        data = score.data or labelled
        plain = {n: v for n, v in given.items() if n != "recipe"}
        words = {**plain, "model": "run", "data": data}
        resolve(SCORED[score.kind], words, None, f"--score-args {score.kind}.{{}}".format)
        name = score.kind if score.data is None else word
        found[name] = Scoring(score.kind, data, given)
    for kind in arm.scores.keys() - {s.kind for s in found.values()}:
        raise UsageError(f"--vary {kind}.{next(iter(arm.scores[kind]))}: add --score {kind}")
    return found


def _cell(base: Mapping[str, Any], arm: Arm, seed: int, budget: Budget | None, recipe: str) -> Cell:
    own = arm.budget or (None if arm.settings.keys() & set(_LENGTHS) else budget)
    given = {**merged(base, arm.settings), "seed": seed}
    given = {n: v for n, v in given.items() if n in arm.settings or n in ("data", "seed")}
    if own is not None:
        given["steps"] = int(own.amount) if own.unit == "steps" else 1
    try:
        config = resolve(PretrainConfig, given, {n: v for n, v in base.items() if n not in given})
    except UsageError as error:
        told = " ".join(f"{n}={v}" for n, v in arm.labels.items())
        raise UsageError(f"{told}: {error}" if told else str(error)) from None
    if own is not None and own.unit == "images":
        steps = max(1, math.ceil(own.amount / config.batch_size - 1e-9))
        config = config.model_copy(update={"steps": steps})
    if config.steps is not None:
        config = config.model_copy(update={"epochs": None})
    values = config.model_dump(mode="json")
    minutes = own.amount if own is not None and own.unit == "minutes" else None
    kept = {n: v for n, v in values.items() if extra_of(PretrainConfig, n)["change"] != "free"}
    kept = {n: v for n, v in kept.items() if n not in ("out", "device")} | {"minutes": minutes}
    speed = digest({n: v for n, v in kept.items() if n != "seed"})
    network = digest({n: values[n] for n in _NETWORK})
    name = f"{_slug(arm)}-s{seed}-{digest(kept)}"
    given = config.model_dump(mode="json", exclude_unset=True)
    return Cell(name, given, arm.recipe or recipe, minutes, speed, network, [])


def _slug(arm: Arm) -> str:
    """What the labels of pretraining say, as part of a file name."""
    own = [v for n, v in arm.labels.items() if n.partition(".")[0] not in SCORED]
    text = re.sub(r"[^\w.]+", "-", "-".join(own)).strip("-.")
    return text[:40].strip("-.") or "run"


def _length(cell: Cell) -> str:
    """What the run of a cell may spend, in words."""
    if cell.minutes is not None:
        return f"{cell.minutes:g} minutes"
    steps, epochs = cell.settings.steps, cell.settings.epochs
    return f"{steps:,} steps" if steps else f"{epochs:g} epochs"
