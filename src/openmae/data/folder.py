"""Images of a folder: found, listed, read by index."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from openmae.data.decode import SUFFIXES, Header, Image8, decode, header
from openmae.errors import did_you_mean


class Sample(TypedDict):
    """One image, (H, W, C) uint8, with its path below the source, its index, and its class (-1:
    none).
    """

    image: Image8
    path: str
    id: int
    label: int


class FolderSource:
    """Images of a folder: flat, nested, or one folder a class (the first folder below the root is
    the class).
    """

    def __init__(self, root: Path, files: list[str], channels: int | None = None) -> None:
        self.root, self.files, self.channels = root, files, channels
        self.name = str(root)

    @cached_property
    def classes(self) -> list[str]:
        """Class folders in order; empty when an image lies outside any."""
        if any("/" not in f for f in self.files):
            return []
        return sorted({f.split("/", 1)[0] for f in self.files})

    @cached_property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        number = {c: i for i, c in enumerate(self.classes)}
        return np.array([number.get(f.split("/", 1)[0], -1) for f in self.files], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image = decode(self.root / self.files[index], self.channels)
        return Sample(image=image, path=self.files[index], id=index, label=int(self.labels[index]))

    def path(self, index: int) -> str:
        return self.files[index]

    def header(self, index: int) -> Header:
        return header(self.root / self.files[index])

    def listing(self) -> Iterator[str]:
        """One line a file: path and size. A run's data are these lines."""
        for file in self.files:
            yield f"{file}\t{(self.root / file).stat().st_size}"

    def subset(self, indices: Sequence[int]) -> FolderSource:
        part = FolderSource(self.root, [self.files[i] for i in indices], self.channels)
        part.__dict__["classes"] = self.classes  # a class missing from one part keeps its number
        return part


def walk(root: Path) -> tuple[list[str], Counter[str], int]:
    """Image files below the root in sorted order, a count of other suffixes, and of folders.
    A linked folder counts once, under its own name where that lies below the root.
    """
    files: list[str] = []
    others: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    stack, links = [""], []  # type: tuple[list[str], list[str]]
    while stack or links:
        if not stack:
            stack.append(min(links))
            links.remove(stack[0])
        relative = stack.pop()
        folder = root / relative
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = f"{relative}/{entry.name}" if relative else entry.name
                if _leads_nowhere(entry):
                    continue
                if entry.is_dir():
                    (links if entry.is_symlink() else stack).append(path)
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                    if entry.is_file():
                        files.append(path)
                else:
                    others[os.path.splitext(entry.name)[1].lower() or "(no suffix)"] += 1
    return sorted(files), others, len(seen) - 1


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """A link to nothing, or to itself."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def missing(root: Path) -> str:
    """What to say of a path that is not there: what is beside it."""
    parent = root.parent
    if not parent.is_dir():
        return f"{root} does not exist, nor does {parent}"
    here = "The current folder" if parent == Path() else str(parent)
    names = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))
    near = did_you_mean(root.name, names) or ([names[0]] if len(names) == 1 else [])
    folders = [f"{n}/" for n in names if (parent / n).is_dir()][:6]
    hint = f" Did you mean {parent / near[0]}?" if near else ""
    return f"{root} does not exist. {here} has: {' '.join(folders) or 'no folders'}.{hint}"


def empty(data: str, others: Counter[str], folders: int) -> str:
    """What to say of a folder without images: what it holds instead."""
    found = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(3))
    text = f"{data} has 0 images ({folders} folders; found {found or 'no files'})."
    return (
        f"{text} Convert them to JPEG or PNG"
        if others
        else f"{text} Give the folder that holds the images"
    )
