"""Words that a user types or reads: spelling of settings, lists of names, what to say of errors."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from cyclopts import UnknownOptionError

from openmae.config import command_of, no_command
from openmae.config.base import Settings, extra_of
from openmae.errors import OpenMAEError, did_you_mean


def spell(name: str, model: type[Settings] | None = None) -> str:
    """A setting as it is typed: mask_ratio -> --mask-ratio, the positional data -> DATA."""
    if model is not None and name in model.model_fields and extra_of(model, name)["positional"]:
        return name.upper()
    return "--" + name.replace("_", "-")


def names(words: str | Iterable[str] | None) -> tuple[str, ...]:
    """Names of settings from "lr,data" or a list, however they are spelt."""
    parts = words.split(",") if isinstance(words, str) else words or ()
    return tuple(w.strip().lstrip("-").replace("-", "_") for w in parts if w.strip())


def plain_paths(value: Any) -> Any:
    """Paths as text, also inside of lists."""
    if isinstance(value, (list, tuple)):
        return [plain_paths(v) for v in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def message(error: Exception, words: list[str]) -> str:
    """What to say of an error that these words led to."""
    if isinstance(error, OpenMAEError):
        return str(error)
    known = (task := command_of(words)) is not None and words[0] == task.split()[0]
    if isinstance(error, UnknownOptionError) and known:
        option = error.token.keyword or error.token.value
        near = did_you_mean(option, [n for a in error.argument_collection for n in a.names])
        hint = f"Did you mean {near[0]}?" if near else f"See openmae {task} --help"
        if task == "slurm" and "--" not in words:
            hint = "Put -- before the command: openmae slurm -o job.sh -- pretrain ..."
        return f"{option} is not an option of {task}. {hint}"
    if words and not known and not words[0].startswith("-"):
        return no_command(words)
    return str(error).strip()
