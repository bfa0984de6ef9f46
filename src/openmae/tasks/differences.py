"""Names of runs that tell them apart, and in which settings they differ. Imports torch only
where pretraining runs of different methods are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from openmae.config.base import shown
from openmae.config.pretrain import PretrainConfig
from openmae.errors import UsageError

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


def without_meaning(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Collection[str]]:
    """Run -> settings that mean nothing to its method; none where all runs have one method, which
    is told without torch. `runs` are settings of pretraining; of what is none nothing is said.
    """
    if len({settings["method"] for settings in runs.values() if "method" in settings}) < 2:
        return {}
    from openmae.tasks.method import meaningless

    found: dict[str, Collection[str]] = {}
    for label, settings in runs.items():
        try:
            config = PretrainConfig.model_validate(
                {n: v for n, v in settings.items() if n not in ("task", "resolved")}
            )
            found[label] = meaningless(config, PretrainConfig.model_fields)
        except (ValidationError, UsageError):  # of another command or version
            continue
    return found


def differences(
    runs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]],
    left_out: tuple[str, ...] = ("out", "seed"),
) -> dict[str, dict[str, str]]:
    """Setting -> run -> value, where the values differ; empty where the setting means nothing to
    the run's method. `runs` are settings, and what was resolved at the start.
    """
    found = {}
    without = without_meaning({label: settings for label, (settings, _) in runs.items()})
    names = list(dict.fromkeys(n for settings, _ in runs.values() for n in settings))
    for name in names:
        values = {label: shown(settings.get(name)) for label, (settings, _) in runs.items()}
        if name not in left_out and len(set(values.values())) > 1:
            found[name] = {k: "" if name in without.get(k, ()) else v for k, v in values.items()}
    for name in RESOLVED:
        values = {label: shown(resolved.get(name)) for label, (_, resolved) in runs.items()}
        if len(set(values.values())) > 1:
            found[name] = values
    return found
