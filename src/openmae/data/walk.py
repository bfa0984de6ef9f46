"""The image files below a folder; of many, the list is kept in the cache.

A list that is kept is used as long as no folder below the root has changed since: adding, removing
and renaming a file changes the time of its folder. What is in the files is not looked at here.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.cache import inside, key_of, read_arrays, write_arrays
from openmae.data.decode import SUFFIXES
from openmae.data.names import Names

MANY = 20_000  # files from which on a list is kept
_SETTLED = 2.0  # seconds that a folder must be unchanged, or its time may miss a later change
_PATIENCE = 5.0  # seconds between lines that say how far a long walk is


@dataclass
class Found:
    """Image files below the root in sorted order, a count of other suffixes, and of folders."""

    files: Names
    others: Counter[str] = field(default_factory=Counter)
    folders: int = 0


def walk(root: Path, tell: Callable[[str], None] | None = None) -> Found:
    """Find them. A linked folder counts once, under its own name where that lies below the root.

    `tell` is called now and then during a long walk; by default it prints to standard error.
    """
    key = key_of("index", 1, str(root.resolve()), " ".join(sorted(SUFFIXES)))
    kept = None if inside(root) else read_arrays(key)
    if kept is not None and _unchanged(root, kept):
        others = Counter(dict(zip(kept["suffixes"].tolist(), kept["counts"].tolist(), strict=True)))
        files = Names.of(kept["block"], kept["ends"])
        return Found(files, others, int(kept["folders"]))
    started = time.time()
    walker = _Walker(root, tell or _print)
    walker.run()
    found = Found(Names(sorted(walker.files)), walker.others, len(walker.seen) - 1)
    if len(found.files) >= MANY and not walker.dangling and not inside(root):
        _keep(key, found, walker.times, started)
    return found


def _print(text: str) -> None:
    print(f"openmae: {text}", file=sys.stderr, flush=True)


class _Walker:
    def __init__(self, root: Path, tell: Callable[[str], None]) -> None:
        self.root, self.tell = root, tell
        self.files: list[str] = []
        self.others: Counter[str] = Counter()
        self.seen: set[tuple[int, int]] = set()
        self.times: dict[str, int] = {}  # folder -> when it changed, in nanoseconds
        self.dangling = False
        self._told = time.monotonic()

    def run(self) -> None:
        stack, links = [""], []  # type: tuple[list[str], list[str]]
        while stack or links:
            if not stack:
                stack.append(min(links))
                links.remove(stack[0])
            relative = stack.pop()
            status = (self.root / relative).stat()
            if (status.st_dev, status.st_ino) in self.seen:
                continue
            self.seen.add((status.st_dev, status.st_ino))
            self.times[relative] = status.st_mtime_ns
            with os.scandir(self.root / relative) as entries:
                for entry in entries:
                    self._entry(entry, relative, stack, links)
            if time.monotonic() - self._told > _PATIENCE:
                self._told = time.monotonic()
                self.tell(f"{len(self.files):,} images found so far in {self.root}")

    def _entry(
        self, entry: os.DirEntry[str], relative: str, stack: list[str], links: list[str]
    ) -> None:
        name = entry.name
        if name.startswith("."):
            return
        if entry.is_symlink() and not os.path.exists(entry.path):  # to nothing, or to itself
            self.dangling = True
            return
        path = f"{relative}/{name}" if relative else name
        if entry.is_dir():
            (links if entry.is_symlink() else stack).append(path)
            return
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in SUFFIXES:
            self.others[suffix or "(no suffix)"] += 1
        elif entry.is_file():
            self.files.append(path)


def _keep(key: str, found: Found, times: dict[str, int], started: float) -> None:
    if max(times.values()) / 1e9 > started - _SETTLED:
        return
    names = Names(times)
    suffixes = list(found.others)
    arrays: dict[str, NDArray[Any]] = {
        "block": found.files.block,
        "ends": found.files.ends,
        "suffixes": np.array(suffixes, dtype=np.str_),
        "counts": np.array([found.others[s] for s in suffixes], dtype=np.int64),
        "folders": np.array(found.folders),
        "dir_block": names.block,
        "dir_ends": names.ends,
        "dir_times": np.array(list(times.values()), dtype=np.int64),
    }
    write_arrays(key, arrays)


def _unchanged(root: Path, kept: dict[str, NDArray[Any]]) -> bool:
    """Whether every folder is as old as it was."""
    folders = Names.of(kept["dir_block"], kept["dir_ends"])
    try:
        return all(
            os.stat(root / folder).st_mtime_ns == then
            for folder, then in zip(folders, kept["dir_times"].tolist(), strict=True)
        )
    except (OSError, ValueError):
        return False
