"""`openmae compare`: methods x scores x seeds, pretrained here, or runs that are there already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmae.config.ablate import parse_budget
from openmae.config.base import Options, resolve
from openmae.config.compare import CompareConfig, parse_method
from openmae.config.pretrain import PretrainConfig
from openmae.config.recipe import read_recipe, shipped
from openmae.data.sources import open_source, short_name
from openmae.engine.device import resolve_device
from openmae.engine.runfolder import Results
from openmae.engine.textfile import write_text
from openmae.report.ablation import page
from openmae.report.comparison import plot_costs, plot_losses, table_of_differences
from openmae.tasks.comparedruns import compare_runs
from openmae.tasks.differences import differences
from openmae.tasks.grid import Arm, Grid, plan
from openmae.tasks.gridstudy import ONCE, split_data, study_of, told_plan
from openmae.tasks.method import meaningless
from openmae.tasks.pretrain import choose_recipe

_LEFT_OUT = ("out", "seed", "data", "eval_every")


def run(config: CompareConfig, options: Options) -> Results:
    """Run what is missing of the grid of methods, or read the runs; exit code 75 after a stop."""
    if not config.methods:
        return compare_runs(config, options, write_page)
    data, labelled = split_data(config.data)
    arms, notices = _arms(config, data, options)
    base: dict[str, Any] = {"data": data, **ONCE}
    grid = plan(
        base,
        arms,
        range(config.seed, config.seed + config.seeds),
        parse_budget(config.budget) if config.budget else None,
        config.score,
        config.score_args,
        labelled,
        "none",
    )
    out = Path(config.out or f"runs/compare-{short_name(config.data)}").expanduser()
    if options.dry_run:
        return told_plan(grid, out, config)
    about = {
        "title": f"{' '.join(parse_method(m)[0] for m in config.methods)} on {config.data}",
        "data": config.data,
        "budget": _budget(config, grid),
        "seeds": list(range(config.seed, config.seed + config.seeds)),
        "base": config.pretraining(),
        "notices": [*notices, "losses of different methods cannot be compared"],
        "differences": _differences(grid),
    }
    return study_of(config, grid, out, "comparison", about, write_page)


def _budget(config: CompareConfig, grid: Grid) -> str:
    """What each run may spend: as typed; or the length that all have."""
    values = {row.budget for row in grid.rows}
    if config.budget:
        return str(parse_budget(config.budget))
    return values.pop() if len(values) == 1 else "each recipe's own length"


def _arms(config: CompareConfig, data: str, options: Options) -> tuple[list[Arm], list[str]]:
    """One a method: its recipe, below what was typed, which holds for all that know it."""
    typed, arms, notices = config.pretraining(), [], []
    device = resolve_device(config.device).type
    family = config.family or choose_recipe(data, device, len(open_source(data)))
    methods = [parse_method(word) for word in config.methods]
    odd = {m: _meaningless({"method": m, **typed}) for m, _ in methods}
    for method, named in methods:
        own = family if method == "mae" else f"{family}-{method}"
        if named is None and own not in shipped("pretrain"):
            notices.append(f"{method} has no recipe {own}: it has what it can use of {family}")
            own = family
        values = read_recipe("pretrain", named or own) | {"method": method}
        if config.budget:
            values = {n: v for n, v in values.items() if n not in ("epochs", "steps")}
        if named is None:
            values = {n: v for n, v in values.items() if n not in _meaningless(values)}
        unknown = {n for n in odd[method] if any(n not in names for names in odd.values())}
        given = {n: v for n, v in typed.items() if n not in unknown}
        whole = resolve(PretrainConfig, {"data": data, **given}, values, options.spell)
        settings = {n: getattr(whole, n) for n in whole.model_fields_set - {"data"}}
        arms.append(Arm({"method": method}, settings, recipe=named or own))
    return arms, notices


def _meaningless(values: Mapping[str, Any]) -> list[str]:
    """Settings that the method among them does not know."""
    return meaningless(PretrainConfig.model_validate({**values, "data": "x"}), values)


def _differences(grid: Grid) -> dict[str, dict[str, str]]:
    """Settings that differ between the rows."""
    rows = {" ".join(row.labels.values()): row.settings for row in grid.rows}
    return differences({label: (dict(config), {}) for label, config in rows.items()}, _LEFT_OUT)


def write_page(folder: Path, table: Mapping[str, Any]) -> list[str]:
    """comparison.html and its pictures; returns their names."""
    pictures = {"comparison.png": plot_costs(table), "losses.png": plot_losses(table)}
    kept = {name: picture for name, picture in pictures.items() if picture is not None}
    for name, picture in kept.items():
        (folder / name).write_bytes(picture)
    sections = [("Settings that differ", table_of_differences(table["differences"]))]
    whole = page({**table, "sections": sections}, list(kept.values()), "openmae compare")
    write_text(folder / "comparison.html", whole)
    return ["comparison.html", *kept]
