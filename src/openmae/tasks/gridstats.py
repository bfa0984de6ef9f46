"""Statistics over seeds: means with intervals, and which differences are more than chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05


@dataclass(frozen=True)
class Spread:
    """Mean of n shares and its 95 % interval by Student's t, cut to what is possible, 0 to 1; no
    interval for one value.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Of the values of several seeds.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values")
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Spread(mean, None, None, n)
    from scipy.stats import t

    half = float(t.ppf(1 - LEVEL / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Spread(mean, max(0.0, mean - half), min(1.0, mean + half), n)


def welch(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of Welch's t-test; None where one side has fewer than two values. Two sides
    without any variance are equal (1) or different (0).
    """
    if min(len(a), len(b)) < 2:
        return None
    mean_a, mean_b = statistics.fmean(a), statistics.fmean(b)
    va, vb = statistics.variance(a) / len(a), statistics.variance(b) / len(b)
    if va + vb == 0:
        return float(mean_a == mean_b)
    from scipy.stats import t

    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return float(2 * t.sf(abs(mean_a - mean_b) / math.sqrt(va + vb), freedom))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values of one family of tests, in the order given."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = highest
    return adjusted


def marks(rows: Mapping[int, Sequence[float]]) -> dict[int, tuple[str, float | None]]:
    """Of rows of values where more is better: "best", "not separable" from it, "lower" (p below
    5 %: Welch's t-test against the best row, Holm-adjusted over the rows), or "one seed", with p.
    """
    if len(rows) < 2:
        return dict.fromkeys(rows, ("", None))
    best = max(rows, key=lambda i: (statistics.fmean(rows[i]), -i))
    tested = {i: welch(rows[best], rows[i]) for i in rows if i != best}
    known = {i: p for i, p in tested.items() if p is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    found: dict[int, tuple[str, float | None]] = {best: ("best", None)}
    for i in tested:
        p = adjusted.get(i)
        mark = "one seed" if p is None else "lower" if p < LEVEL else "not separable"
        found[i] = (mark, p)
    return found
