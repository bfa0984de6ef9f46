"""How many ranks a command is to have, and whether this machine can have them; without torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openmae.errors import UsageError
from openmae.launch.attempt import cores
from openmae.rank import started

_MOST_ON_CPU = 8  # ranks, also where there are fewer cores
_MOST_UNCOUNTED = 16  # GPUs of one machine where nothing here can count them


def ranks_to_start(config: Any, spell: Callable[[str], str]) -> int:
    """How many ranks to start for these settings; 1 means that this process does it all.

    Raises:
        UsageError: torchrun started another number, or this machine has fewer.
    """
    asked = getattr(config, "gpus", None)
    if asked is None:
        return 1
    if started():
        size = int(os.environ["WORLD_SIZE"])
        if size != asked:
            raise UsageError(
                f"{spell('gpus')} {asked}: torchrun started {size} ranks (WORLD_SIZE). Drop"
                f" {spell('gpus')}, or start as many"
            )
        return 1
    if asked > 1:
        _require(asked, config.device, spell)
    return int(asked)


def _require(asked: int, device: str, spell: Callable[[str], str]) -> None:
    where = f"{spell('gpus')} {asked}"
    if device not in ("auto", "cpu", "cuda"):
        what = "is one device" if device == "mps" or ":" in device else "is no device for ranks"
        raise UsageError(
            f"{where}: {spell('device')} {device} {what}. Use {spell('device')} cuda, or cpu"
        )
    gpus = None if device == "cpu" else count_gpus()
    on_cpu = device == "cpu" or (device == "auto" and not gpus)
    if on_cpu and asked > (most := max(_MOST_ON_CPU, cores())):
        raise UsageError(
            f"{where}: at most {most} ranks on this machine's CPU. Use fewer, or"
            f" {spell('gpus')} 1 for one process"
        )
    if not on_cpu and gpus is None and asked > _MOST_UNCOUNTED:
        raise UsageError(
            f"{where}: GPUs cannot be counted here, and at most {_MOST_UNCOUNTED} ranks are started"
            f" then. Use fewer, or {spell('device')} cpu"
        )
    if not on_cpu and gpus is not None and asked > gpus:
        there = "there is 1 GPU" if gpus == 1 else f"there are {gpus} GPUs"
        fewer = f"{spell('gpus')} {gpus}, or " if gpus else ""
        raise UsageError(f"{where}: {there}. Use {fewer}{spell('device')} cpu")


def count_gpus() -> int | None:
    """GPUs that CUDA would show, as far as that can be known without torch; None: unknown."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name for name in visible.split(",") if name.strip()]
        return next((i for i, name in enumerate(names) if name.strip() == "-1"), len(names))
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
        return sum(line.startswith("GPU ") for line in listed.splitlines())
    except (OSError, subprocess.SubprocessError):
        folder = Path("/proc/driver/nvidia/gpus")
        return len(list(folder.iterdir())) if folder.is_dir() else None
