"""The page of several runs: their curves over one axis, and in what they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from openmae.report import chart
from openmae.report.comparison import table_of_differences
from openmae.report.curves import shared_panels, words_of
from openmae.report.html import frame, grid, section, text
from openmae.report.pagepictures import last
from openmae.report.rundata import RunData, state_of
from openmae.report.runpage import STYLE, commands, hours, speed_of, trained

Differences = Mapping[str, Mapping[str, str]]


def page(
    runs: Sequence[RunData],
    differences: Differences,
    found: Sequence[tuple[str, str]],
    axis: str = "images",
) -> str:
    """The whole page. `found` are commands to paste."""
    title = " / ".join(run.name for run in runs)
    return frame(title, lead(runs), body(runs, differences, found, axis), STYLE, kind="Runs")


def lead(runs: Sequence[RunData]) -> str:
    """The lines below the title."""
    states = [state_of(run)[0] for run in runs]
    words = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    return f'<p>{len(runs)} runs on one axis.</p><p class="state" id="state">{text(words)}</p>'


def body(
    runs: Sequence[RunData], differences: Differences, found: Sequence[tuple[str, str]], axis: str
) -> str:
    """The sections."""
    panels = shared_panels({run.name: run.metrics for run in runs}, axis)
    drawn = "".join(chart.chart(panel, f"c-{i}") for i, panel in enumerate(panels))
    shots = "".join(last(run.path / "pictures", run.name) for run in runs)
    problems = "".join(
        f"<li>{text(run.name)}: {text(line)}</li>" for run in runs for line in run.problems
    )
    parts = [
        ("runs", "Runs", _table(runs)),
        ("differences", "Settings that differ", table_of_differences(differences)),
        ("curves", "Curves", _notice(runs) + f'<div class="charts">{drawn}</div>' if drawn else ""),
        ("pictures", "Last reconstructions", f'<div class="shots">{shots}</div>' if shots else ""),
        ("next", "Commands", commands(found)),
        ("missing", "What could not be read", f"<ul>{problems}</ul>" if problems else ""),
    ]
    return "\n".join(section(head, made, name) for name, head, made in parts)


def _notice(runs: Sequence[RunData]) -> str:
    kinds = {(r.task, r.config.get("method"), r.config.get("target")) for r in runs}
    if len(kinds) == 1:
        return ""
    return "<p>These runs differ in method or target: their losses cannot be compared.</p>"


def _table(runs: Sequence[RunData]) -> str:
    scores = list(
        dict.fromkeys(
            n for run in runs for n in run.metrics.names if n.endswith(("accuracy", "mIoU", "mAP"))
        )
    )
    heads = ["run", "state", "step", "images seen", "loss", "held out", *map(words_of, scores),
             "img/s", "time", "skipped", "seed"]  # fmt: skip
    rows = []
    for run in runs:
        metrics = run.metrics
        speed, skipped = speed_of(run), np.nansum(metrics.values("skipped"))
        cells = [text(run.name), text(state_of(run)[0]), f"{run.step:,}"]
        cells.append(_number(metrics.last("images"), "{:,.0f}"))
        cells += [_number(metrics.last(n), "{:.4f}") for n in ("loss", "val_loss")]
        for name in scores:
            value = metrics.last(name)
            cells.append(_number(None if value is None else 100 * value, "{:.1f} %"))
        cells += [_number(speed, "{:,.0f}"), hours(trained(run)), f"{skipped:,.0f}"]
        rows.append([*cells, text(run.config.get("seed", "-"))])
    return grid(heads, rows, len(heads) - 2, "the runs", named=True)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
