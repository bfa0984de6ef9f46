"""Images of a folder: found, listed, read by index."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmae.data.decode import read_bytes
from openmae.data.names import Names
from openmae.data.source import BytesSource
from openmae.data.values import Decoding
from openmae.errors import did_you_mean


class FolderSource(BytesSource):
    """Images of a folder: flat, nested, or one folder a class (the first folder below the root is
    the class).
    """

    def __init__(self, root: Path, files: Sequence[str], decoding: Decoding | None = None) -> None:
        super().__init__(str(root), len(files), decoding)
        self.root = root
        self.files = files if isinstance(files, Names) else Names(files)
        self.classes, self.table_labels = classes_of(self.files)

    def row_path(self, row: int) -> str:
        """The path below the root."""
        return self.files[row]

    def row_bytes(self, row: int) -> bytes:
        """The file."""
        return read_bytes(self.root / self.files[row])

    def whole_paths(self) -> Iterator[str]:
        """Where the images lie, links to folders followed, so that those of two sources compare."""
        folders: dict[str, str] = {}
        for row in self.rows.tolist():
            folder, name = os.path.split(self.files[row])
            if folder not in folders:
                folders[folder] = os.path.realpath(self.root / folder)
            yield os.path.join(folders[folder], name)

    def row_line(self, row: int) -> str:
        """Path and size."""
        path = self.files[row]
        return f"{path}\t{os.stat(os.path.join(self.root, path)).st_size}"


def classes_of(paths: Iterable[str]) -> tuple[list[str], NDArray[np.int64] | None]:
    """Class folders in order and the class of each path; none when a path lies outside any."""
    first = [path.split("/", 1)[0] if "/" in path else None for path in paths]
    if None in first:
        return [], None
    names = sorted({name for name in first if name is not None})
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number[name] for name in first if name is not None], dtype=np.int64)


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
    files = [n for n in names if Path(n).suffix == root.suffix][:6] if root.suffix else []
    beside = " ".join(files or folders) or "no folders"
    return f"{root} does not exist. {here} has: {beside}.{hint}"


def empty(data: str, others: Counter[str], folders: int) -> str:
    """What to say of a folder without images: what it holds instead."""
    found = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(3))
    text = f"{data} has 0 images ({folders} folders; found {found or 'no files'})."
    return (
        f"{text} Convert them to JPEG or PNG"
        if others
        else f"{text} Give the folder that holds the images"
    )
