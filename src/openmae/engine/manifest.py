"""What makes a folder a checkpoint: its manifest, and whether the files agree with it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmae.engine.tensorfile import file_sha256

FORMAT = 1
MANIFEST = "MANIFEST.json"
_NONSENSE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


def write_json(path: Path, values: Mapping[str, Any]) -> tuple[int, str]:
    """Write a new JSON file to the disk; returns its size in bytes and its sha256."""
    data = json.dumps(values, indent=1, allow_nan=False).encode()
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return len(data), file_sha256(path)


def problem(path: Path, hashes: bool = True) -> str | None:
    """Why a folder is not a complete checkpoint, naming the file; None when it is."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"{MANIFEST} is of format {manifest['format']}, this version reads {FORMAT}"
        for name, listed in manifest["files"].items():
            file = path / Path(name).name
            if file.stat().st_size != listed["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {listed['bytes']}"
            if hashes and file_sha256(file) != listed["sha256"]:
                return f"{name} fails its checksum"
        known = {MANIFEST, *manifest["files"]}
        more = sorted(p.name for p in path.iterdir() if p.name not in known)
        if more := [name for name in more if not name.startswith(".")]:
            return f"{more[0]} does not belong there"
        step = json.loads((path / "state.json").read_text(encoding="utf-8"))["step"]
        if manifest["step"] != step:
            return f"{MANIFEST} is of step {manifest['step']}, state.json of step {step}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, *_NONSENSE) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    return None


def listed(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first by the step in their manifest."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("step_*") if folder.is_dir() else ():
        try:
            step = int(json.loads((path / MANIFEST).read_text(encoding="utf-8"))["step"])
        except (OSError, *_NONSENSE):
            step = step_of(path)
        found.append((step, path))
    return [path for _, path in sorted(found, reverse=True)]


def _step(path: Path) -> int:
    digits = re.search(r"\d+$", path.name)
    return int(digits[0]) if digits else -1


def step_of(path: Path) -> int:
    """The step in a folder's name; -1 without one."""
    digits = re.search(r"\d+$", path.name)
    return int(digits[0]) if digits else -1
