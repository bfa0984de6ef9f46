"""Parquet: images as bytes in a column, read at random by row group; or a column of paths."""

from __future__ import annotations

import contextlib
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.columns import (
    columns_of,
    open_file,
    read_columns,
    read_group,
    row_groups,
    with_paths,
)
from openmae.data.decode import SUFFIXES
from openmae.data.names import Names
from openmae.data.source import BytesSource, Source
from openmae.data.splits import TEST, TRAIN, split_codes
from openmae.data.table import Rows, files_source
from openmae.data.values import Decoding
from openmae.errors import DataError

SUFFIX = ".parquet"
_KEEP = 256 << 20  # bytes of row groups that a process keeps
_OPEN = 64  # files that a process keeps open
_PART = re.compile(rf"({'|'.join((*TRAIN, *TEST))})[-_.]")


class ParquetSource(BytesSource):
    """Encoded images in a column of Parquet files.

    A process keeps the row groups that it read last; else nothing is held in memory but a number
    and perhaps a name an image. Random order over groups much larger than a batch is slow.

    Args:
        files: below `root`.
        column: as Parquet writes it: "bytes", or "image.bytes" for a field of a column.
        groups: rows of each row group of each file.
        names: of the images, unlike each other; by default FILE/NUMBER.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        files: Sequence[str],
        column: str,
        groups: Sequence[NDArray[np.int64]],
        names: Names | None = None,
        decoding: Decoding | None = None,
    ) -> None:
        super().__init__(name, sum(int(g.sum()) for g in groups), decoding)
        self.root, self.files, self.column, self.names = root, list(files), column, names
        self.sizes = [os.stat(root / file).st_size for file in files]
        self._file_ends = np.cumsum([g.sum() for g in groups])
        self._group_ends = [np.cumsum(g) for g in groups]
        self._groups = _Groups()

    def row_path(self, row: int) -> str:
        """Of the table, or FILE/NUMBER."""
        if self.names is not None:
            return self.names[row]
        file, number = self._at(row)
        return f"{self.files[file]}/{number:08d}"

    def row_bytes(self, row: int) -> bytes:
        """The file in the cell."""
        file, number = self._at(row)
        ends = self._group_ends[file]
        group = int(np.searchsorted(ends, number, side="right"))
        before = int(ends[group - 1]) if group else 0
        column = self._groups.get(self.root / self.files[file], group, self.column)
        if number - before >= len(column):
            raise DataError("fewer rows than the file says")
        found: bytes | None = column[number - before].as_py()
        if found is None:
            raise DataError("no bytes in this row")
        return found

    def row_line(self, row: int) -> str:
        """Name, file with its size, place in it, and label."""
        file, number = self._at(row)
        line = f"{self.row_path(row)}\t{self.files[file]}\t{self.sizes[file]}\t{number}"
        return line if self.table_labels is None else f"{line}\t{self.table_labels[row].tolist()}"

    def _at(self, row: int) -> tuple[int, int]:
        """File, and row in it."""
        file = int(np.searchsorted(self._file_ends, row, side="right"))
        return file, row - (int(self._file_ends[file - 1]) if file else 0)


class _Groups:
    """The files and row groups that a process used last. A forked process begins without any, so
    that it shares no open file with its parent.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._owner, self._bytes = os.getpid(), 0
        self._files: OrderedDict[Path, Any] = OrderedDict()
        self._kept: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def __reduce__(self) -> tuple[type[_Groups], tuple[()]]:
        return _Groups, ()

    def get(self, path: Path, group: int, column: str) -> Any:
        """A pyarrow.ChunkedArray."""
        if self._owner != os.getpid():
            self._start()
        key = (path, group)
        if key not in self._kept:
            found = read_group(path, self._file(path), group, column)
            self._bytes += found.nbytes
            while self._kept and self._bytes > _KEEP:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
            self._kept[key] = found
        self._kept.move_to_end(key)
        return self._kept[key]

    def _file(self, path: Path) -> Any:
        if path not in self._files:
            while len(self._files) >= _OPEN:
                self._files.popitem(last=False)[1].close()
            self._files[path] = open_file(path)
        self._files.move_to_end(path)
        return self._files[path]


def open_parquet(data: str, decoding: Decoding) -> Source | None:
    """A Parquet file, or a folder of them (and of no images).

    Raises:
        DataError: a file cannot be read, or lacks the columns.
    """
    path = Path(data).expanduser()
    if path.suffix.lower() == SUFFIX and path.is_file():
        root, files = path.parent, [path.name]
    elif path.is_dir() and _is_of_parquet(path):
        root = path
        files = sorted(
            p.relative_to(root).as_posix() for p in path.rglob("*") if p.suffix.lower() == SUFFIX
        )
    else:
        return None
    columns = columns_of(root / files[0])
    for file in files[1:]:
        if columns_of(root / file) != columns:
            raise DataError(f"{root / file} has other columns than {files[0]}")
    rows = _together(files, [read_columns(root / file, columns) for file in files])
    if not rows.paths:
        raise DataError(f"{data} has no rows")
    if columns.image is None:
        return files_source(data, root, with_paths(path, rows), decoding)
    groups = [row_groups(root / file) for file in files]
    unlike = all(rows.paths) and len(set(rows.paths)) == len(rows.paths)
    names = Names(rows.paths) if unlike else None
    source = ParquetSource(data, root, files, columns.image, groups, names, decoding)
    if len(source) != len(rows.paths):
        raise DataError(f"{data} cannot be read: its row groups do not add up")
    source.classes, source.table_labels = rows.numbered()
    source.table_splits = split_codes(rows.splits or [], data)
    return source


def _is_of_parquet(root: Path) -> bool:
    """Whether the first folders, in breadth, that have images or Parquet files have no images."""
    folders = [root]
    while folders:
        below: list[Path] = []
        found = False
        for folder in folders:
            with contextlib.suppress(PermissionError), os.scandir(folder) as entries:
                for entry in entries:
                    suffix = os.path.splitext(entry.name)[1].lower()
                    if suffix in SUFFIXES:
                        return False
                    found |= suffix == SUFFIX
                    if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                        below.append(Path(entry.path))
        if found:
            return True
        folders = below
    return False


def _together(files: Sequence[str], parts: Sequence[Rows]) -> Rows:
    """The rows of all files; paths start at the folder of their file. Without a column that says
    the split, the names of the files may: train-00000-of-00002.parquet.
    """
    paths: list[str] = []
    labels: list[Any] = []
    splits: list[str] = []
    for file, part in zip(files, parts, strict=True):
        folder = os.path.dirname(file)
        paths += [os.path.join(folder, path) if path else "" for path in part.paths]
        labels += part.labels or []
        said = _PART.match(os.path.basename(file))
        splits += part.splits or [said[1] if said else ""] * len(part.paths)
    if parts[0].splits is None and not all(splits):
        splits = []
    return Rows(paths, None if parts[0].labels is None else labels, splits, parts[0].classes)
