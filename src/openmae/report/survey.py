"""The page of `openmae data check`: one file, no script, nothing loaded from elsewhere.

Names of files and classes are hostile text: everything goes through `html.text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from openmae.report.html import cards, frame, grid, scrolled, section, text

_MOST = 500  # lines of a list; the files beside the page have all
_CLASSES = 40


def page(found: Mapping[str, Any]) -> str:
    """The whole page, from what `openmae.data.findings` found, with twins and a command."""
    name = text(found["data"])
    parts = [
        _cards(found),
        section("How to begin", f"<pre><code>{text(found['command'])}</code></pre>"),
        section("Sizes", _sizes(found["sizes"])),
        section("Values", _values(found)),
        section("Classes", _classes(found["classes"])),
        section("Files that cannot be read", _bad(found["bad"])),
        section("Files to look at", _odd(found)),
        section("Twins within the set", _pairs(found["duplicates"]["pairs"], "duplicates.csv")),
    ]
    if "leakage" in found:
        against = text(found["leakage"]["against"])
        words = f"<p>Images of <b>{against}</b> that are in <b>{name}</b> too.</p>"
        table = _pairs(found["leakage"]["pairs"], "leakage.csv")
        parts.insert(2, section("Leakage between two sets", words + table))
    looked = "" if found["looked"] == found["n"] else f", {found['looked']:,} of them looked at"
    lead = (
        f"<p>{found['n']:,} images{looked}. Written by <code>openmae data check</code>; the data"
        " were only read.</p>"
    )
    return frame(str(found["data"]), lead, "\n".join(parts), kind="Data check")


def _cards(found: Mapping[str, Any]) -> str:
    twins = found["duplicates"]
    odd = sum(len(one["paths"]) for one in found["odd"].values())
    told = [
        ("can be read", found["readable"], ""),
        ("cannot be read", len(found["bad"]), "bad" if found["bad"] else ""),
        ("same file as another", twins["exact"], "warn" if twins["exact"] else ""),
        ("almost the same", twins["near"], "warn" if twins["near"] else ""),
        ("under 32 px", len(found["tiny"]), ""),
        ("constant or nearly empty", len(found["constant"]) + len(found["nearly_empty"]), ""),
        ("odd, but read", odd, ""),
    ]
    if "leakage" in found:
        count = found["leakage"]["exact"] + found["leakage"]["near"]
        told.insert(2, ("in both sets", count, "bad" if count else ""))
    return cards([(words, f"{count:,}", mark) for words, count, mark in told])


def _bars(rows: Iterable[tuple[str, int]]) -> str:
    """Labels and counts as bars; the labels are escaped here."""
    listed = list(rows)
    most = max((count for _, count in listed), default=1) or 1
    lines = "".join(
        f'<tr><th scope="row">{text(label)}</th><td class="bar"><div style="width:'
        f'{100 * count / most:.2f}%"></div></td><td class="n">{count:,}</td></tr>'
        for label, count in listed
    )
    return scrolled(f'<table class="bars">{lines}</table>')


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], numbers: int = 0) -> str:
    """`numbers` columns at the end stand on the right; the first lines of long lists."""
    cells = [[text(value) for value in row] for row in rows[:_MOST]]
    return grid(heads, cells, numbers)


def _more(count: int, file: str) -> str:
    return f"<p>The first {_MOST:,} of {count:,}; all are in {file}.</p>" if count > _MOST else ""


def _sizes(sizes: Mapping[str, Any]) -> str:
    if not sizes:
        return ""
    rows = [
        (words, *(f"{sizes[key][k]:,}" for k in ("min", "median", "max")))
        for words, key in (("width", "width"), ("height", "height"), ("short side", "short_side"))
    ]
    shapes = ", ".join(f"{sizes[k]:,} {k}" for k in ("landscape", "portrait", "square") if sizes[k])
    long = f"; {sizes['long']:,} longer than 3:1" if sizes["long"] else ""
    count = sizes["different"]
    different = "All of one size" if count == 1 else f"{count:,} different sizes"
    bins = (
        (f"{b['from']:,} to {b['to'] - 1:,}" if b["to"] else f"{b['from']:,} and more", b["count"])
        for b in sizes["short_side_histogram"]
    )
    return (
        f'<p>{shapes}{long}. {different}.</p><div class="two"><div>'
        f"<h3>Pixels</h3>{_table(('', 'least', 'median', 'most'), rows, 3)}</div>"
        f"<div><h3>Short side, pixels</h3>{_bars(bins)}</div></div>"
    )


def _values(found: Mapping[str, Any]) -> str:
    blocks = []
    names = found["band_names"]
    for group in found["values"][:8]:
        own = names if len(names) == group["channels"] else []
        rows = [
            (
                f"{c + 1} {own[c]}" if own else c + 1,
                *("-" if group[k][c] is None else f"{group[k][c]:.5g}" for k in _MOMENTS),
            )
            for c in range(group["channels"])
        ]
        missing = f", {group['no_numbers']:.2%} are no numbers" if group["no_numbers"] else ""
        plural = "" if group["channels"] == 1 else "s"
        title = f"{group['count']:,} with {group['channels']} channel{plural} {group['type']}"
        heads = ("channel", "least", "most", "mean", "deviation")
        blocks.append(f"<div><h3>{text(title + missing)}</h3>{_table(heads, rows, 4)}</div>")
    counts = [
        f"<div><h3>{title}</h3>{_bars(found[key].items())}</div>"
        for title, key in (("Formats", "formats"), ("Modes", "modes"))
        if found[key]
    ]
    span = ""
    if found["value_range"] is not None:
        low, high = found["value_range"]
        span = f"<p>Values of more than 8 bits are read on the range {low:.10g} to {high:.10g}.</p>"
    return f'{span}<div class="two wide">{"".join(blocks)}{"".join(counts)}</div>'


_MOMENTS = ("low", "high", "mean", "std")


def _classes(classes: Mapping[str, Any] | None) -> str:
    if classes is None:
        return ""
    images = list(classes["images"].items())
    half = _CLASSES // 2
    words = f"<p>{classes['count']:,} classes, {classes['ratio']:,.1f} to 1."
    words += (
        f" {classes['unlabelled']:,} images have none.</p>" if classes["unlabelled"] else "</p>"
    )
    if len(images) <= _CLASSES:
        return words + _bars(images)
    return (
        f'{words}<div class="two"><div><h3>Largest</h3>{_bars(images[:half])}</div>'
        f"<div><h3>Smallest</h3>{_bars(images[-half:])}</div></div>"
    )


def _bad(bad: Sequence[Mapping[str, Any]]) -> str:
    if not bad:
        return "<p>None.</p>"
    rows = [(one["path"], one["kind"], one["reason"]) for one in bad]
    return _table(("path", "kind", "reason"), rows) + _more(len(rows), "bad_files.jsonl")


def _odd(found: Mapping[str, Any]) -> str:
    lists = [
        ("under 32 px", found["tiny"]),
        ("one value only", found["constant"]),
        ("nearly empty: hardly any contrast beside the others", found["nearly_empty"]),
        ("longer than 3:1", found["long"]),
        *((one["what"], one["paths"]) for one in found["odd"].values()),
    ]
    blocks = [
        f"<details><summary>{text(words)} <b>{len(paths):,}</b></summary><ul>"
        + "".join(f"<li>{text(path)}</li>" for path in paths[:_MOST])
        + f"</ul>{_more(len(paths), 'report.json')}</details>"
        for words, paths in lists
        if paths
    ]
    return "".join(blocks) or "<p>None.</p>"


def _pairs(pairs: Sequence[Mapping[str, Any]], file: str) -> str:
    if not pairs:
        return "<p>None found.</p>"
    rows = [
        (
            one["path"],
            one["same_as"],
            "same file" if one["kind"] == "exact" else "almost",
            f"{one['similarity']:.3f}",
        )
        for one in pairs
    ]
    return _table(("path", "is like", "", "likeness"), rows, 1) + _more(len(rows), file)
