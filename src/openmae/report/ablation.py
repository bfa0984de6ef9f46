"""The page and the plot of a grid: one HTML file with everything in it, without script."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from openmae.report.html import frame, grid, picture, section, text

_COSTS = (
    ("loss", "loss", "{:.4f}"), ("images_seen", "images", "{:,.0f}"), ("seconds", "s", "{:,.0f}"),
    ("images_per_s", "img/s", "{:,.0f}"), ("gflop_per_image", "GFLOP/img", "{:.3g}"),
    ("parameters", "M parameters", "{:.2f}"),
)  # fmt: skip
_MORE = "table { margin: 0; } img { max-width: 100%; background: #fff; border-radius: 6px; }"


def plot(table: Mapping[str, Any]) -> bytes:
    """A PNG: one panel a score, over the varied setting; points are seeds, bars 95 % intervals."""
    figure, panels = panels_of(len(table["scores"]))
    for axes, score in zip(panels, table["scores"], strict=True):
        _panel(axes, table, score)
    return png(figure)


def panels_of(count: int, columns: int = 3) -> tuple[Any, list[Any]]:
    """A figure with some panels, at most so many side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(6.0, 4.6 * columns), 3.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def png(figure: Any) -> bytes:
    """The bytes of a picture."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()


def _panel(axes: Any, table: Mapping[str, Any], score: Mapping[str, Any]) -> None:
    rows = [row for row in table["rows"] if score["key"] in row["scores"]]
    names = ["\n".join(map(str, row["labels"].values())) for row in rows]
    numbers = _numbers(rows)
    places = numbers or [float(i) for i in range(len(rows))]
    for place, row in zip(places, rows, strict=True):
        own = row["scores"][score["key"]]
        points = [100 * v for v in own["values"]]
        axes.plot([place] * len(points), points, ".", color="#8a8f94", ms=5, zorder=2)
        if own["low"] is not None:
            ends = [100 * own["low"], 100 * own["high"]]
            axes.plot([place, place], ends, color="#1f5fa8", lw=2, zorder=1)
        axes.plot([place], [100 * own["mean"]], "o", color="#1f5fa8", ms=6, zorder=3)
    means = [100 * row["scores"][score["key"]]["mean"] for row in rows]
    if numbers:
        axes.plot(places, means, color="#1f5fa8", lw=1)
    else:
        axes.set_xticks(places, names)
        axes.set_xlim(-0.6, len(rows) - 0.4)
    _floors(axes, table, score["key"])
    axes.set_xlabel(", ".join(table["labels"]))
    axes.set_ylabel("accuracy, %")
    axes.set_title(score["name"])
    axes.spines[["top", "right"]].set_visible(False)


def _numbers(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The values of a single varied setting, where they are numbers."""
    try:
        found = [float(str(v).replace(",", "")) for row in rows for v in row["labels"].values()]
    except ValueError:
        return []
    return found if len(found) == len(rows) == len(set(found)) else []


def _floors(axes: Any, table: Mapping[str, Any], key: str) -> None:
    """Baselines that all rows share, as lines; one far below them all would press them together."""
    least = axes.dataLim.ymin
    styles = {"random weights": "--", "raw pixels": ":", "majority": "-."}
    shown = False
    for line in table["baselines"]:
        own = line["scores"].get(key)
        if own is not None and not line["of"] and 100 * own["mean"] > least / 2:
            axes.axhline(100 * own["mean"], color="#c4501b", lw=1, ls=styles[line["name"]],
                         label=line["name"])  # fmt: skip
            shown = True
    if shown:
        axes.legend(frameon=False, fontsize=8)


def page(table: Mapping[str, Any], pictures: Sequence[bytes], command: str) -> str:
    """The whole page."""
    images = "".join(picture(p, "plot: its numbers are in the table above") for p in pictures)
    seeds = ", ".join(map(str, table["seeds"]))
    budget = f"{text(table['budget'])} a run, " if table["budget"] else ""
    about = f"{text(table['data'])}, {budget}seeds {text(seeds)}."
    parts = [
        section("Result", scores_table(table) + _unfinished(table["unfinished"])),
        section("Plot", images),
        section("Cost", costs_table(table)),
        section("How this was made", _how(table)),
        *(section(head, body) for head, body in table.get("sections", ())),
    ]
    lead = f"<p>{about} Written by <code>{text(command)}</code>.</p>"
    return frame(str(table["title"]), lead, "\n".join(parts), _MORE)


def scores_table(table: Mapping[str, Any]) -> str:
    """Rows with means, intervals and marks, then the baselines."""
    labels, scores = table["labels"], table["scores"]
    if not scores:
        return "<p>No scores.</p>"
    heads = [
        *labels,
        *(h for s in scores for h in (f"{s['name']}, %", "95 % interval", "against the best", "n")),
    ]
    rows = []
    for row in table["rows"]:
        cells = [text(row["labels"].get(name, "")) for name in labels]
        for score in scores:
            own = row["scores"].get(score["key"])
            few = f"0 of {row['planned']}"
            cells += _score_cells(own, row["planned"]) if own else ["-", "", "not finished", few]
        rows.append(cells)
    for line in table["baselines"]:
        of = ", ".join(f"{n}={v}" for n, v in line["of"].items())
        name = f"<i>{text(line['name'])}{text(f' ({of})' if of else '')}</i>"
        cells = [name, *([""] * (len(labels) - 1))]
        for score in scores:
            own = line["scores"].get(score["key"])
            cells += _score_cells(own, own["n"]) if own else ["", "", "", ""]
        rows.append(cells)
    return grid(heads, rows, 0, "scores")


def _score_cells(own: Mapping[str, Any], planned: int) -> list[str]:
    span = "" if own["low"] is None else f"{100 * own['low']:.1f} to {100 * own['high']:.1f}"
    mark, p = own.get("mark", ""), own.get("p")
    shown = f"<b>{mark}</b>" if mark == "best" else text(mark)
    shown += "" if p is None else f" (p {p:.2g})"
    n = str(own["n"]) if own["n"] == planned else f"{own['n']} of {planned}"
    return [f"<b>{100 * own['mean']:.1f}</b>", span, shown, n]


def costs_table(table: Mapping[str, Any]) -> str:
    """What the rows cost; medians over seeds."""
    heads = [*table["labels"], *(head for _, head, _ in _COSTS)]
    rows = []
    for row in table["rows"]:
        cells = [text(row["labels"].get(name, "")) for name in table["labels"]]
        for name, _, form in _COSTS:
            value = row[name]
            value = value / 1e6 if name == "parameters" and value is not None else value
            cells.append("-" if value is None else form.format(value))
        rows.append(cells)
    return grid(heads, rows, len(_COSTS), "costs")


def _unfinished(cells: Sequence[Mapping[str, Any]]) -> str:
    if not cells:
        return ""
    rows = [
        [text(" ".join(f"{n}={v}" for n, v in one["row"].items())), text(one["seed"]),
         text(one["state"]), text(one["reason"])]
        for one in cells
    ]  # fmt: skip
    words = f"<p><b>{len(cells)} runs are not finished</b> and left out of the means.</p>"
    return words + grid(("run", "seed", "state", "reason"), rows, 0, "unfinished runs")


def _how(table: Mapping[str, Any]) -> str:
    base = " ".join(f"{n}={v}" for n, v in sorted(table["base"].items()))
    all_rows = f"<p>All rows: <code>{text(base)}</code></p>" if base else ""
    lines = [*table["protocol"], *table["statistics"], *table["notices"]]
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    count = "operations are those of forward and backward pass as they are run"
    return f"<ul>{items}<li>{count}</li></ul>{all_rows}"
