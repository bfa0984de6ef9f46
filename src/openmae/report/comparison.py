"""Plots of a comparison: accuracy against what it cost, and losses where they are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openmae.report.ablation import panels_of, png
from openmae.report.html import grid, text

_COLOURS = ("#1f5fa8", "#c4501b", "#3b7d3b", "#7a4fa3", "#8a5a00", "#0f8a8a", "#b3266d", "#555b60")
_AXES = (("operations", "10^12 operations of pretraining a run"), ("minutes", "minutes a run"))


def plot_costs(table: Mapping[str, Any]) -> bytes | None:
    """A PNG: for each score accuracy over operations and over minutes of pretraining, with 95 %
    intervals over seeds; None where no run has a score.
    """
    panels = [(s, axis) for s in table["scores"] for axis in _AXES if _points(table, s, axis[0])]
    if not panels:
        return None
    figure, places = panels_of(len(panels), len(_AXES))
    for axes, (score, (cost, label)) in zip(places, panels, strict=True):
        _panel(axes, table, score, cost, label)
    return png(figure)


def _points(table: Mapping[str, Any], score: Mapping[str, Any], cost: str) -> list[Any]:
    """(number of the row, its name, cost, its score) of rows that have both."""
    found = []
    for number, row in enumerate(table["rows"]):
        own, spent = row["scores"].get(score["key"]), _cost(row, cost)
        if own is not None and spent is not None:
            found.append((number, " ".join(map(str, row["labels"].values())), spent, own))
    return found


def _cost(row: Mapping[str, Any], name: str) -> float | None:
    if name == "minutes":
        return None if row["seconds"] is None else row["seconds"] / 60
    if row["gflop_per_image"] is None or row["images_seen"] is None:
        return None
    operations: float = row["gflop_per_image"] * row["images_seen"] / 1000
    return operations


def _plain_ticks(axis: Any) -> None:
    """Numbers of a logarithmic axis as people write them, at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _panel(
    axes: Any, table: Mapping[str, Any], score: Mapping[str, Any], cost: str, label: str
) -> None:
    points = _points(table, score, cost)
    for number, name, spent, own in points:
        colour = _COLOURS[number % len(_COLOURS)]
        if own["low"] is not None:
            axes.plot([spent, spent], [100 * own["low"], 100 * own["high"]], color=colour, lw=2)
        axes.plot([spent], [100 * own["mean"]], "o", color=colour, ms=6)
        above = (0, 9, -9)[number % 3]  # points: names of near ones do not meet
        axes.annotate(
            name,
            (spent, 100 * own["mean"]),
            xytext=(7, above),
            textcoords="offset points",
            fontsize=8,
            va="center",
            color=colour,
        )
    costs = [spent for _, _, spent, _ in points]
    if min(costs) > 0 and max(costs) > 5 * min(costs):
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 1.4, max(costs) * 2)  # room for the names
        _plain_ticks(axes.xaxis)
    else:
        axes.set_xlim(left=0, right=1.35 * max(costs) or 1)
    axes.margins(y=0.12)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy, %")
    axes.set_title(score["name"])
    axes.spines[["top", "right"]].set_visible(False)


def plot_losses(table: Mapping[str, Any]) -> bytes | None:
    """A PNG of the losses of runs over images seen; None where they are of different kinds."""
    curves = table.get("curves")
    if not curves:
        return None
    figure, places = panels_of(1)
    for number, (name, rows) in enumerate(curves.items()):
        for images, losses in rows:
            places[0].plot(images, losses, color=_COLOURS[number % len(_COLOURS)], lw=1, label=name)
            name = "_" + name  # one entry a row
    places[0].set_xlabel("images seen")
    places[0].set_ylabel("training loss")
    places[0].legend(frameon=False, fontsize=8)
    places[0].spines[["top", "right"]].set_visible(False)
    return png(figure)


def table_of_differences(found: Mapping[str, Mapping[str, str]]) -> str:
    """Settings that differ, a line each; nothing where none does."""
    if not found:
        return "<p>None but the data and the seed.</p>"
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    rows = [
        [text(setting), *(text(values.get(n, "-")) for n in names)]
        for setting, values in found.items()
    ]
    return grid(["setting", *names], rows, 0, "settings that differ", named=True)
