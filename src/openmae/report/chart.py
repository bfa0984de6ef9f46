"""A panel as SVG within a page: colours follow day and night, words for those who do not see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from openmae.report.curves import Line, Panel, axis_words
from openmae.report.html import grid, more, text
from openmae.report.metricsfile import Numbers

STYLES = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 3", "12 4", "6 2 1 2 1 2")
COLOURS = ("#1f5fa8", "#b8430f", "#2f7a35", "#7a3fa8", "#8a5a00", "#0b7a7a", "#b3206a", "#4d545a")
_NIGHT = ("#7aa9e6", "#ff9d66", "#7fce86", "#c79bf0", "#e5b75a", "#5fcfcf", "#ff8fc0", "#b6bdc4")
_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 250, 56, 14, 10, 40  # units of the drawing
_ROWS = 16  # of the table of numbers
_MARKS = 120

STYLE = (
    ":root { "
    + " ".join(f"--c{i}: {c};" for i, c in enumerate(COLOURS))
    + " --grid: #e6e5e1; --mark: #b3261e; }\n@media (prefers-color-scheme: dark) { :root { "
    + " ".join(f"--c{i}: {c};" for i, c in enumerate(_NIGHT))
    + " --grid: #34383c; --mark: #ff8a80; } }\n@media print { :root { "
    + " ".join(f"--c{i}: {c};" for i, c in enumerate(COLOURS))
    + " --grid: #e6e5e1; --mark: #b3261e; } }\n"
    + "".join(
        f".s{i} {{ stroke: var(--c{i}); stroke-dasharray: {d or 'none'}; }}"
        f" .a{i} {{ fill: var(--c{i}); }} .p{i} {{ stroke: var(--c{i}); }}\n"
        for i, d in enumerate(DASHES)
    )
    + """.charts { display: grid; gap: 1.2rem 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figure h3 { margin: 0 0 .2rem; color: var(--text); }
figure svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 12.5px; font-variant-numeric: tabular-nums; }
.line { fill: none; stroke-width: 1.7; stroke-linejoin: round; }
.area { opacity: .22; stroke: none; }
.dots { fill: none; stroke-width: 6; stroke-linecap: round; }
.gridline { stroke: var(--grid); stroke-width: 1; }
.frame { stroke: var(--soft); stroke-width: 1; fill: none; }
.mark { stroke: var(--mark); stroke-width: 1.4; }
.legend { list-style: none; margin: .1rem 0 .2rem; display: flex; flex-wrap: wrap;
  gap: .1rem 1.1rem; max-height: none; }
.legend svg { width: 34px; height: 12px; display: inline-block; vertical-align: middle;
  margin-right: .4rem; }
figure .about { color: var(--soft); font-size: .85rem; margin: .1rem 0; }
figure details { font-size: .85rem; }
"""
)


def chart(panel: Panel, name: str) -> str:
    """A figure: heading, drawing, legend and the numbers as a table. `name` is its own id."""
    drawn = [line for line in panel.lines if np.isfinite(line.y).any()]
    if not drawn:
        return ""
    unit = f", {panel.unit}" if panel.unit else ""
    about = panel.about[:1].upper() + panel.about[1:] + (". " if panel.about else "")
    legend = _legend(drawn, bool(panel.marks)) if len(drawn) > 1 or panel.marks else ""
    banded = any(len(line.x) < line.of for line in drawn)
    about += "Band: least to most; line: mean. " if banded else ""
    about += "Logarithmic. " if panel.log else ""
    return (
        f'<figure id="{text(name)}"><h3>{text(panel.title + unit)}</h3>{_svg(panel, drawn, name)}'
        f'{legend}<p class="about">{text(about.strip())}</p>'
        f"{more('Numbers', _table(panel, drawn))}</figure>"
    )


def _svg(panel: Panel, drawn: Sequence[Line], name: str) -> str:
    xs = np.concatenate([line.x for line in drawn])
    ys = np.concatenate([np.concatenate([line.low, line.high]) for line in drawn])
    ys = ys[np.isfinite(ys)]
    left, right = float(np.nanmin(xs)), float(np.nanmax(xs))
    left = 0.0 if 0 <= left < 0.15 * right else left
    bottom, top = limits(float(ys.min()), float(ys.max()), panel.log, panel.zero)
    across = _scale(left, right, _LEFT, _W - _RIGHT, False)
    up = _scale(bottom, top, _H - _BOTTOM, _TOP, panel.log)
    parts = [_axes(panel, across, up, (left, right), (bottom, top))]
    for line in drawn:
        parts.append(_line(line, across(line.x), up(line.low), up(line.y), up(line.high)))
    parts += _marked(panel, across)
    return (
        f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-labelledby="{text(name)}-t {text(name)}-d">'
        f'<title id="{text(name)}-t">{text(panel.title)}</title>'
        f'<desc id="{text(name)}-d">{text(described(panel, drawn))}</desc>{"".join(parts)}</svg>'
    )


def described(panel: Panel, drawn: Sequence[Line]) -> str:
    """The curve in words."""
    found = []
    for line in drawn:
        good = np.flatnonzero(np.isfinite(line.y))
        y, x = line.y[good], line.x[good]
        found.append(
            f"{line.label}: {number(y[0])} at {number(x[0])}, {number(y[-1])} at {number(x[-1])},"
            f" least {number(np.nanmin(line.low))}, most {number(np.nanmax(line.high))}"
        )
    marks = f" {len(panel.marks)} marks of trouble." if panel.marks else ""
    return f"Over {axis_words(panel.axis)}. {'. '.join(found)}.{marks}"


def limits(low: float, high: float, log: bool, zero: bool) -> tuple[float, float]:
    """The ends of an upright axis around values."""
    if log:
        return low / 1.15, high * 1.15
    if zero and low >= 0:
        return 0.0, 1.06 * high or 1.0
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _scale(
    low: float, high: float, start: float, end: float, log: bool
) -> Callable[[Numbers], Numbers]:
    low, high = (math.log10(low), math.log10(high)) if log else (low, high)
    span = (high - low) or 1.0

    def place(values: Numbers) -> Numbers:
        shown = np.log10(values) if log else np.asarray(values, dtype=float)
        found: Numbers = start + (shown - low) / span * (end - start)
        return found

    return place


def ticks(low: float, high: float, most: int, log: bool = False) -> list[float]:
    """Round numbers between two values."""
    if log and math.log10(high / low) >= 1:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        steps = (1, 2, 5) if last - first <= 2 else (1, 3) if last - first <= 3 else (1,)
        every = max(1, math.ceil((last - first) / most))
        found = [s * 10.0**k for k in range(first, last + 1, every) for s in steps]
        return [t for t in found if low <= t <= high]
    rough = (high - low) / max(most, 1) or 1.0
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * s for s in (1, 2, 2.5, 5, 10) if size * s >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)][: 4 * most]


def number(value: float) -> str:
    """A number as people read it."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.4g} M"
    if size >= 1000:
        return f"{value:,.0f}"
    if 0 < size < 0.01:
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.4g}"


def _axes(
    panel: Panel,
    across: Callable[[Numbers], Numbers],
    up: Callable[[Numbers], Numbers],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> str:
    right, floor = _W - _RIGHT, _H - _BOTTOM
    lines, words = [], []
    for value in ticks(*y_range, 6, panel.log):
        y = float(up(np.array(value)))
        lines.append(f"M{_LEFT} {y:.1f}H{right}")
        words.append(
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>'
        )
    for value in ticks(*x_range, 5):
        x = float(across(np.array(value)))
        lines.append(f"M{x:.1f} {_TOP}V{floor}")
        end = "end" if x > right - 14 else "middle"
        words.append(
            f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="{end}">{number(value)}</text>'
        )
    middle = (_LEFT + right) / 2
    label = f'<text x="{middle}" y="{_H - 6}" text-anchor="middle">{axis_words(panel.axis)}</text>'
    return (
        f'<path class="gridline" d="{"".join(lines)}"/>'
        f'<path class="frame" d="M{_LEFT} {_TOP}V{floor}H{right}"/>{"".join(words)}{label}'
    )


def _line(line: Line, x: Numbers, low: Numbers, y: Numbers, high: Numbers) -> str:
    style, found = line.style % STYLES, []
    if len(line.x) < line.of:
        good = np.isfinite(low)
        points = [*zip(x[good], high[good], strict=True)]
        points += [*zip(x[good][::-1], low[good][::-1], strict=True)]
        d = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        found.append(f'<path class="area a{style}" d="M{d}Z"/>')
    found.append(f'<path class="line s{style}" d="{_path(x, y)}"/>')
    if (line.points and len(x) <= 120) or np.isfinite(y).sum() == 1:
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x, y, strict=True) if np.isfinite(b))
        found.append(f'<path class="dots p{style}" d="{dots}"/>')
    return "".join(found)


def _path(x: Numbers, y: Numbers) -> str:
    parts, pen = [], "M"
    for a, b in zip(x, y, strict=True):
        if np.isfinite(b):
            parts.append(f"{pen}{a:.1f} {b:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _marked(panel: Panel, across: Callable[[Numbers], Numbers]) -> list[str]:
    """Ticks at the bottom, one a place, with its words."""
    places: dict[float, list[str]] = {}
    for at, words in panel.marks:
        x = round(float(across(np.array(at))), 0)
        if _LEFT - 1 <= x <= _W - _RIGHT + 1:
            places.setdefault(x, []).append(words)
    floor = _H - _BOTTOM
    found = []
    for x, every in list(places.items())[:_MARKS]:
        told = ", ".join(list(dict.fromkeys(every))[:3]) + (" ..." if len(every) > 3 else "")
        found.append(
            f'<path class="mark" d="M{x:.0f} {floor}v-14"><title>{text(told)}</title></path>'
        )
    return found


def _legend(drawn: Sequence[Line], marked: bool) -> str:
    items = [
        f'<li><svg viewBox="0 0 34 12" aria-hidden="true"><path class="line s{line.style % STYLES}"'
        f' d="M1 6H33"/></svg>{text(line.label)}</li>'
        for line in drawn
    ]
    if marked:
        items.append(
            '<li><svg viewBox="0 0 34 12" aria-hidden="true"><path class="mark" d="M17 1V11"/>'
            "</svg>trouble or a restart, listed below</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _table(panel: Panel, drawn: Sequence[Line]) -> str:
    """At most so many numbers of each line, evenly spaced."""
    rows = []
    for line in drawn:
        good = np.flatnonzero(np.isfinite(line.y))
        for i in np.unique(np.linspace(0, len(good) - 1, min(_ROWS, len(good))).astype(int)):
            k = good[i]
            values = [number(v) for v in (line.x[k], line.low[k], line.y[k], line.high[k])]
            values = values if len(line.x) < line.of else [values[0], values[2]]
            rows.append([text(line.label), *values])
    wide = max(len(row) for row in rows)
    rows = [row if len(row) == wide else [row[0], row[1], "", row[2], ""] for row in rows]
    names = ["least", "mean", "most"] if wide == 5 else ["value"]
    heads = ["line", axis_words(panel.axis), *names]
    return grid(heads, rows, len(heads) - 1, f"{panel.title}: numbers", named=True)
