"""The picture and the words of a grid's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt

from openmae.report import ablation


def floor(name: str, mean: float, of: str = "") -> dict[str, Any]:
    return {"name": name, "of": of, "scores": {"probe": {"mean": mean}}}


def lines_of(baselines: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the lines beside two rows at 36 and 42 %."""
    _, axes = plt.subplots()
    axes.plot([2, 8], [42, 36])
    ablation._floors(axes, {"baselines": baselines}, "probe")
    names = [str(line.get_label()) for line in axes.lines[1:]]
    plt.close()
    return names


def test_a_baseline_far_below_is_left_to_the_table():
    """Chance at 10 % would press rows that differ by points into one line."""
    near, far = floor("raw pixels", 0.30), floor("majority", 0.10)
    assert lines_of([near, far]) == ["raw pixels"]
    assert lines_of([floor("majority", 0.19), floor("random weights", 0.3, "of one row")]) == [
        "majority"
    ]
