"""Settings that stand in several commands, each where that command lists it; said once here."""

from __future__ import annotations

from typing import Any

from openmae.config.base import setting
from openmae.config.training import MODEL, RUN


def trained_from() -> Any:
    """`model` of what is trained on an encoder."""
    what = "a run folder, a checkpoint of any kind or a timm name"
    return setting(..., what, MODEL, "fixed", positional=True)


def from_random_weights() -> Any:
    """`random_weights` of the same."""
    what = "the same network from random weights: training from scratch"
    return setting(False, what, MODEL, "fixed")


def loaders() -> Any:
    """`workers` of a command that reads and does not train."""
    what = "loader processes; chosen by device"
    return setting(None, what, RUN, "free", ge=0, le=256)


def any_device() -> Any:
    """`device` of a command that does not train."""
    return setting("auto", "auto, cpu, cuda, cuda:N or mps", RUN, "free")


def ranks() -> Any:
    """`gpus` of a command that does not train."""
    what = "ranks on this machine that share the images; on CPU processes"
    return setting(None, what, RUN, "free", ge=1)
