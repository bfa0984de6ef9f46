"""The table of a grid in lines for people: to be read in ten seconds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from openmae.engine.log import duration, put, say

_MOST = 6  # unfinished cells that are named


def tell(table: Mapping[str, Any], files: Sequence[str]) -> None:
    """Print the table, its baselines, what is not finished, and how the numbers were made."""
    for line in lines(table):
        put(line, sys.stdout)
    for line in unfinished(table["unfinished"]):
        put(line, sys.stdout)
    for number, line in enumerate([*table["protocol"], *table["statistics"]]):
        say("" if number else "Scores", line)
    for notice in table.get("notices", ()):
        say("Note", notice)
    say("Out", "  ".join(files))


def lines(table: Mapping[str, Any]) -> list[str]:
    """The table, heads first; columns of labels, one a score, then costs."""
    labels, scores = table["labels"], table["scores"]
    heads = [*labels, *(_head(s, table["rows"]) for s in scores)]
    heads += ["loss", "img/s", "time a run", "GFLOP/img"]
    body = [_cells(row, labels, scores) for row in table["rows"]]
    for line in table["baselines"]:
        address = ", ".join(f"{n}={v}" for n, v in line["of"].items())
        name = line["name"] + (f" ({address})" if address else "")
        cells = [_interval(line["scores"].get(s["key"])) for s in scores]
        body.append([*([""] * len(labels)), *cells, "", "", "", "", name])
    return _columns(heads, body, len(labels))


def _head(score: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    counts = {row["scores"][score["key"]]["n"] for row in rows if score["key"] in row["scores"]}
    n = f", n={counts.pop()}" if len(counts) == 1 else ""
    return f"{score['name']} (mean, 95 % interval{n})"


def _cells(
    row: Mapping[str, Any], labels: Sequence[str], scores: Sequence[Mapping[str, Any]]
) -> list[str]:
    found = [str(row["labels"].get(name, "")) for name in labels]
    for score in scores:
        own = row["scores"].get(score["key"])
        if own is None:
            found.append("diverged" if row["diverged"] == row["planned"] else "not finished")
            continue
        few = f" (n={own['n']} of {row['planned']})" if own["n"] < row["planned"] else ""
        mark = own.get("mark", "")
        found.append(f"{_interval(own)}{few}   {mark}".rstrip())
    loss, rate, took = row["loss"], row["images_per_s"], row["seconds"]
    flops = row["gflop_per_image"]
    return [
        *found,
        "" if loss is None else f"{loss:.4f}",
        "" if rate is None else f"{rate:,.0f}",
        "" if took is None else duration(took),
        "" if flops is None else f"{flops:.3g}",
    ]


def _interval(own: Mapping[str, Any] | None) -> str:
    """ "77.8  [76.1, 79.5]" in percent."""
    if own is None:
        return ""
    mean = f"{100 * own['mean']:.1f}"
    if own["low"] is None:
        return mean
    return f"{mean}  [{100 * own['low']:.1f}, {100 * own['high']:.1f}]"


def _columns(heads: Sequence[str], body: Sequence[Sequence[str]], words: int) -> list[str]:
    """Columns side by side. A row with one cell more than heads is a baseline's: that cell is its
    name, which takes the place of the labels.
    """
    count = len(heads)
    labelled = [heads, *(cells for cells in body if len(cells) == count)]
    widths = [max(len(cells[i]) for cells in labelled) for i in range(words)]
    rows = []
    for cells in [heads, *body]:
        own = "   ".join(c.ljust(w) for c, w in zip(cells[:words], widths, strict=True))
        rows.append([own if len(cells) == count else cells[count], *cells[words:count]])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = ([cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in rows)
    return [("  " + "   ".join(cells)).rstrip() for cells in padded]


def unfinished(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cells that are missing in the table, and why."""
    if not cells:
        return []
    found = [f"Not finished: {len(cells)} runs, left out of the means above"]
    for one in cells[:_MOST]:
        row = " ".join(f"{n}={v}" for n, v in one["row"].items())
        found.append(f"  {row} seed {one['seed']}: {one['state']}, {one['reason']}")
    if len(cells) > _MOST:
        found.append(f"  ... and {len(cells) - _MOST} more")
    return found
