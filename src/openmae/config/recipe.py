"""Recipes: YAML files of settings, shipped in the wheel or the user's own. Data only: no imports,
aliases or code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from openmae.errors import UsageError, did_you_mean

FOLDER = Path(__file__).parent.parent / "recipes"
_LARGEST = 1_000_000  # bytes; a recipe is a page


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number, and an alias or a key given twice is an error."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        twice = sorted({str(k) for k in keys if keys.count(k) > 1})
        if twice:
            raise yaml.YAMLError(f"{', '.join(twice)} is given twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        UsageError: it cannot be read, naming the file and the reason.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path} is too large for a recipe")
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (
        OSError,
        ValueError,
        LookupError,
        AttributeError,
        yaml.YAMLError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} cannot be read as YAML: {reason}") from None
    if not isinstance(values, dict) or not all(isinstance(k, str) for k in values):
        raise UsageError(f"{path} is not a mapping of settings to values")
    return values


RECIPES_OF = {"benchmark": "pretrain", "ablate": "pretrain"}
"""A command that takes the recipes of another one."""


def shipped(task: str) -> dict[str, Path]:
    """Name -> file of the recipes that come with the package."""
    return {p.stem: p for p in sorted((FOLDER / RECIPES_OF.get(task, task)).glob("*.yaml"))}


def read_recipe(task: str, name: str) -> dict[str, Any]:
    """The settings of a recipe, by shipped name or by path; a run's own config.yaml is one too.

    Raises:
        UsageError: no such recipe (with the close ones), or a file for another task.
    """
    known = shipped(task)
    if name in known:
        path = known[name]
    elif name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
    else:
        near = did_you_mean(name, known)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"--recipe {name}: no such recipe of {task}. {hint}There are:"
            f" {', '.join(known) or 'none'}"
        )
    values = read_yaml(path)
    if values.pop("task", None) not in (None, RECIPES_OF.get(task, task)):
        raise UsageError(f"{path} is a configuration of another task than {task}")
    values.pop("resolved", None)
    values.pop("about", None)
    return values


def about(task: str, name: str) -> Mapping[str, str]:
    """What a shipped recipe says of itself: paper table, command, cost, expected number."""
    found: Mapping[str, str] = read_yaml(shipped(task)[name]).get("about", {})
    return found
