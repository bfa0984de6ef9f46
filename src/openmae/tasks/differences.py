"""Names of runs that tell them apart, and in which settings they differ. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmae.config.base import shown

RESOLVED = ("total_steps", "data_hash", "images", "device", "precision", "threads", "recipe")
"""What was chosen at the start of a run and may explain a difference."""


def named(paths: list[Path]) -> list[str]:
    """Short names of runs that tell them apart."""
    parts = [path.resolve().parts for path in paths]
    count = next((k for k in range(1, 99) if len({p[-k:] for p in parts}) == len(parts)), 99)
    short = [p[-count:] for p in parts]
    while len(parts) > 1 and len(short[0]) > 1 and len({p[-1] for p in short}) == 1:
        short = [p[:-1] for p in short]
    return ["/".join(p) for p in short]


def differences(
    runs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]],
    left_out: tuple[str, ...] = ("out", "seed"),
) -> dict[str, dict[str, str]]:
    """Setting -> run -> value, where the values differ. `runs` are settings, and what was resolved
    at the start.
    """
    found = {}
    names = list(dict.fromkeys(n for settings, _ in runs.values() for n in settings))
    for name in names:
        values = {label: shown(settings.get(name)) for label, (settings, _) in runs.items()}
        if name not in left_out and len(set(values.values())) > 1:
            found[name] = values
    for name in RESOLVED:
        values = {label: shown(resolved.get(name)) for label, (_, resolved) in runs.items()}
        if len(set(values.values())) > 1:
            found[name] = values
    return found
