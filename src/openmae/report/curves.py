"""What the curves of a run are: which columns go into which panel, and few enough points to draw.

Nothing here knows how they are drawn: `chart` makes SVG of a panel, `chartfiles` a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from openmae.report.metricsfile import AXES, Metrics, Numbers

_BUCKETS = 320  # along the axis; of each its least, mean and most are kept
_RAW = 640  # points that are drawn as they are
_SPAN = 25.0  # largest to least value from which on an axis is logarithmic
_LOSSES = {
    "loss": "training",
    "val_loss": "held out, fixed masks",
    "test_loss": "test, not augmented",
}
_NAMED = {
    "lr": ("Learning rate", "", "what the optimiser used"),
    "grad_norm": ("Gradient norm", "", "before clipping, mean of the steps of a row"),
    "images_per_s": ("Speed", "images/s", "between two rows; measuring and saving are left out"),
    "data_share": ("Waiting for data", "%", "share of the time in which the step had no images"),
}
_PERCENT = ("accuracy", "mIoU", "mAcc", "aAcc", "majority", "data_share")
_APART = {"step", "images", "epoch", "skipped", "bad_images", *_NAMED}


@dataclass(frozen=True)
class Line:
    """A curve: x, and the least, mean and most of y near each x, all (n,) with NaN for gaps."""

    label: str
    x: Numbers
    low: Numbers
    y: Numbers
    high: Numbers
    style: int = 0
    points: bool = False  # measured now and then: each one is marked
    of: int = 0  # numbers from which it was made


@dataclass(frozen=True)
class Panel:
    """A drawing: lines over one axis."""

    name: str
    title: str
    unit: str
    about: str
    axis: str
    lines: Sequence[Line]
    log: bool = False
    zero: bool = False
    marks: Sequence[tuple[float, str]] = field(default=())


def thin(label: str, x: Numbers, y: Numbers, style: int = 0, points: bool = False) -> Line:
    """A line of few points: long ones become buckets along x, each with its least and most."""
    count, good = len(x), np.isfinite(x)
    x, y = x[good], y[good]
    if len(x) <= _RAW:
        return Line(label, x, y, y, y, style, points, count)
    place = np.minimum((x - x[0]) / max(x[-1] - x[0], 1e-300) * _BUCKETS, _BUCKETS - 1).astype(int)
    first = np.flatnonzero(np.diff(place, prepend=-1))
    finite = np.isfinite(y)
    counts = np.add.reduceat(finite.astype(float), first)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(np.where(finite, y, 0.0), first) / counts
    low, high = np.fmin.reduceat(y, first), np.fmax.reduceat(y, first)
    last = np.append(first[1:], len(x)) - 1
    return Line(label, (x[first] + x[last]) / 2, low, mean, high, style, points, count)


def panels_of(metrics: Metrics, axis: str, marks: Iterable[tuple[float, str]] = ()) -> list[Panel]:
    """The panels of one run. `marks` are steps and words, drawn where the loss is."""
    names = metrics.names
    groups: list[tuple[str, str, str, str, list[tuple[str, str]]]] = []
    losses = [(n, words) for n, words in _LOSSES.items() if n in names]
    groups += [("loss", "Loss", "", "mean of the steps of a row", losses)] if losses else []
    scores = [(n, words_of(n)) for n in names if _percent(n) and n not in _APART]
    floor = "; a majority is what the largest class alone would score"
    about = "measured on the way" + (floor if any("majority" in n for n, _ in scores) else "")
    groups += [("scores", "Scores on the way", "%", about, scores)] if scores else []
    terms = [(n, words_of(n)) for n in names if n.startswith("loss_")]
    groups += (
        [("terms", "Terms of the loss", "", "as the method told them", terms)] if terms else []
    )
    groups += [(n, *_NAMED[n], [(n, _NAMED[n][0])]) for n in _NAMED if n in names]
    told = {n for *_, own in groups for n, _ in own}
    more = [n for n in names if n not in told | _APART]
    groups += [(n, words_of(n), "", "told by the method", [(n, words_of(n))]) for n in more]
    found = []
    for name, title, unit, words, own in groups:
        lines = [_line(metrics, n, label, axis, i) for i, (n, label) in enumerate(own)]
        found.append(_panel(name, title, unit, words, axis, lines))
    at = sorted(marks)
    places = metrics.along(axis, np.array([step for step, _ in at]))
    told_marks = [(float(x), w) for x, (_, w) in zip(places, at, strict=True) if np.isfinite(x)]
    return [
        Panel(**{**vars(p), "marks": told_marks}) if p.name in ("loss", "grad_norm") else p
        for p in found
    ]


def shared_panels(runs: Mapping[str, Metrics], axis: str) -> list[Panel]:
    """Panels of several runs: what at least one of them logged, a line each."""
    names = list(dict.fromkeys(n for metrics in runs.values() for n in metrics.names))
    order = [n for n in (*_LOSSES, *_NAMED) if n in names]
    order += [n for n in names if n not in order and n not in _APART]
    order.sort(key=lambda n: (n not in _LOSSES, not _percent(n) or n in _NAMED))
    found = []
    for name in order:
        title, unit, about = _NAMED.get(name, (words_of(name), "%" if _percent(name) else "", ""))
        if name in _LOSSES:
            title = f"Loss, {_LOSSES[name]}"
        lines = [
            _line(metrics, name, label, axis, number)
            for number, (label, metrics) in enumerate(runs.items())
            if name in metrics.names
        ]
        found.append(_panel(name, title, unit, about, axis, lines))
    return found


def words_of(name: str) -> str:
    """The name of a column as words."""
    words = name.replace("knn_", "k-NN ").replace("_", " ").strip()
    return words[:1].upper() + words[1:] if words[:1].islower() and words[:4] != "k-NN" else words


def axis_words(axis: str) -> str:
    """How an axis is called."""
    return AXES[axis]


def _percent(name: str) -> bool:
    return any(word in name for word in _PERCENT)


def _line(metrics: Metrics, name: str, label: str, axis: str, style: int) -> Line:
    steps, values = metrics.steps(name), metrics.values(name)
    dense = len(metrics.steps("loss"))
    points = len(steps) <= 25 or (name != "loss" and len(steps) < dense / 3)
    scale = 100.0 if _percent(name) else 1.0
    return thin(label, metrics.along(axis, steps), scale * values, style, points)


def _panel(name: str, title: str, unit: str, about: str, axis: str, lines: Sequence[Line]) -> Panel:
    drawn = np.concatenate([np.concatenate([line.low, line.high]) for line in lines])
    drawn = drawn[np.isfinite(drawn)]
    log = (
        name not in ("lr", "images_per_s")
        and unit != "%"
        and len(drawn) > 4
        and bool(drawn.min() > 0)
        and bool(drawn.max() > _SPAN * drawn.min())
    )
    zero = unit == "%" or name in ("lr", "images_per_s")
    return Panel(name, title, unit, about, axis, lines, log, zero)
