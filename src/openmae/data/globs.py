"""Images that a pattern names: 'photos/**/*.jpg'."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from openmae.data.decode import SUFFIXES
from openmae.data.folder import FolderSource, missing
from openmae.data.source import Source
from openmae.data.values import Decoding
from openmae.errors import DataError

WILD = re.compile(r"[*?[]")


def open_glob(data: str, decoding: Decoding) -> Source | None:
    """Images that a pattern matches, sorted; names and class folders are those below its longest
    fixed folder. `**` is any number of folders; hidden files have to be named.

    Raises:
        DataError: no such folder, or no image in it matches.
    """
    if not WILD.search(data) or "://" in data or os.path.lexists(Path(data).expanduser()):
        return None
    parts = Path(data).expanduser().parts
    fixed = next(i for i, part in enumerate(parts) if WILD.search(part))
    root, pattern = Path(*parts[:fixed]), parts[fixed:]
    if not root.is_dir():
        raise DataError(missing(root))
    found = set(_below(root, "", pattern))
    files = sorted(name for name in found if os.path.splitext(name)[1].lower() in SUFFIXES)
    if not files:
        raise DataError(f"{data} matches no image. {_holds(root, found)}")
    source = FolderSource(root, files, decoding)
    source.name = data
    return source


def _below(root: Path, folder: str, pattern: tuple[str, ...]) -> Iterator[str]:
    """Regular files below a folder that match, relative to the root, perhaps more than once."""
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        for inside in _folders(root, folder):
            yield from _below(root, inside, rest or ("*",))
        return
    for entry in _entries(root / folder):
        if entry.name.startswith(".") and not first.startswith("."):
            continue
        if not fnmatch.fnmatchcase(entry.name, first):
            continue
        path = f"{folder}/{entry.name}" if folder else entry.name
        if not rest and entry.is_file():
            yield path
        elif rest and entry.is_dir():
            yield from _below(root, path, rest)


def _folders(root: Path, folder: str) -> Iterator[str]:
    """A folder and all below it that are not hidden; each once, whatever links there are."""
    seen: set[tuple[int, int]] = set()
    stack, links = [folder], []  # type: tuple[list[str], list[str]]
    while stack or links:  # links last, so that a folder keeps its own name where it has one here
        here = (stack or links).pop()
        status = os.stat(root / here)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield here
        for entry in sorted(_entries(root / here), key=lambda e: e.name, reverse=True):
            if not entry.name.startswith(".") and entry.is_dir():
                path = f"{here}/{entry.name}" if here else entry.name
                (links if entry.is_symlink() else stack).append(path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _holds(root: Path, matched: set[str]) -> str:
    """What there is instead: files that match and are no images, or what the folder has."""
    others = Counter(os.path.splitext(n)[1].lower() or "(no suffix)" for n in matched)
    if others:
        found = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(3))
        return f"It matches {found}. Convert them to JPEG or PNG"
    names = sorted(
        f"{e.name}/" if e.is_dir() else e.name for e in _entries(root) if e.name[:1] != "."
    )
    more = " ..." if len(names) > 6 else ""
    return f"{root} has: {' '.join(names[:6]) or 'nothing'}{more}"
