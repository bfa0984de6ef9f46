"""Lists of image files: CSV, TSV, one path a line, or Parquet.

A table has a column of paths, relative to its own folder or absolute, and may have a label and a
split; whatever else it has is not read.
"""

from __future__ import annotations

import contextlib
import csv
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from openmae.data.folder import FolderSource
from openmae.data.names import shown
from openmae.data.source import Source
from openmae.data.splits import numbered, split_codes
from openmae.data.values import Decoding
from openmae.errors import DataError, did_you_mean

PATH = ("path", "file", "filename", "image", "image_path")
LABEL = ("label", "class", "category")
SPLIT = ("split",)
DELIMITERS = {".csv": ",", ".tsv": "\t"}
LIST = ".txt"


class Rows(NamedTuple):
    """What a table says, row by row; None for a column that it lacks. Splits are in lower case.

    Labels are text, or whole numbers where the table has them as such; None or "" is no label.
    `classes` are the names of numbers that already count classes from 0.
    """

    paths: Sequence[str]
    labels: Sequence[Any] | None = None
    splits: Sequence[str] | None = None
    classes: list[str] | None = None

    def numbered(self) -> tuple[list[str], NDArray[np.int64] | None]:
        """Names of the classes and the number of each row's, -1 where it has none."""
        if self.labels is None:
            return [], None
        if self.classes is None:
            return numbered(self.labels)
        found = np.array([-1 if k is None else k for k in self.labels], dtype=np.int64)
        found[(found < 0) | (found >= len(self.classes))] = -1
        return self.classes, found


class TableSource(FolderSource):
    """Files that a table names, below `root` or by their whole path, with its labels: (N,) int64,
    or (N, K) float32 of several.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        classes: list[str],
        labels: NDArray[Any] | None,
        splits: NDArray[np.int8] | None = None,
        decoding: Decoding | None = None,
    ) -> None:
        super().__init__(root, files, decoding)
        self.classes, self.table_labels, self.table_splits = classes, labels, splits

    def row_line(self, row: int) -> str:
        """Path, size and label, so that another label is another data set."""
        line = super().row_line(row)
        return line if self.table_labels is None else f"{line}\t{self.table_labels[row].tolist()}"


def open_table(data: str, decoding: Decoding) -> Source | None:
    """A CSV, a TSV, or a text file with one path a line.

    Raises:
        DataError: it cannot be read, or names files that are not there.
    """
    path = Path(data).expanduser()
    if path.suffix.lower() not in (*DELIMITERS, LIST) or not path.is_file():
        return None
    return files_source(data, path.parent, read_rows(path), decoding)


def files_source(name: str, root: Path, rows: Rows, decoding: Decoding | None) -> TableSource:
    """The files of a table whose paths start at `root`. The same line twice counts once.

    Raises:
        DataError: files that are not there, or one that stands there twice with different labels.
    """
    start = os.path.abspath(root) + os.sep
    labels = rows.labels or [""] * len(rows.paths)
    splits = rows.splits or [""] * len(rows.paths)
    first: dict[str, int] = {}
    keep: list[int] = []
    missing: list[str] = []
    for row, text in enumerate(rows.paths):
        whole = os.path.normpath(os.path.join(start, text))
        path = whole.removeprefix(start).replace(os.sep, "/")
        at = first.setdefault(path, row)
        if at == row:
            keep.append(row)
            if not _is_file(whole):
                missing.append(text)
        elif (labels[at], splits[at]) != (labels[row], splits[row]):
            raise DataError(f"{name}: {shown(text)} stands there twice with different labels")
    if missing:
        raise DataError(
            f"{name}: {len(missing)} of {len(keep)} files not found (first: {shown(missing[0])})."
            f" Paths are relative to {root}, or absolute"
        )
    kept = rows._replace(
        labels=rows.labels and [labels[i] for i in keep], splits=[splits[i] for i in keep]
    )
    classes, numbers = kept.numbered()
    codes = split_codes(kept.splits or [], name)
    source = TableSource(Path(root), list(first), classes, numbers, codes, decoding)
    source.name = name
    return source


def _is_file(path: str) -> bool:
    """A regular file: a pipe or a device would be read for ever."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def read_rows(path: Path, need: Sequence[str] = ()) -> Rows:
    """Paths, labels and splits of a table, by the suffix of its name.

    `need` names columns beside the path that must be there and have no gap: "label".

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    if path.suffix.lower() == ".parquet":
        from openmae.data.columns import read_paths

        rows = read_paths(path)
    elif path.suffix.lower() == LIST:
        rows = _read_list(path)
    else:
        rows = _read_csv(path, need)
    if not rows.paths:
        below = "" if path.suffix.lower() == LIST else " below its first"
        raise DataError(f"{path} has no lines{below}")
    if "label" in need:
        if rows.labels is None:
            raise DataError(f"{path} has no column 'label'")
        empty = sum(label is None or label == "" for label in rows.labels)
        if empty:
            raise DataError(f"{path}: {empty} of {len(rows.labels)} rows have no label")
    return rows


def find_column(columns: Sequence[str], names: Sequence[str]) -> int | None:
    """Where the first of the names stands among the columns, whatever the case."""
    plain = [column.strip().lower() for column in columns]
    return next((plain.index(name) for name in names if name in plain), None)


def no_column(path: Path, columns: Sequence[str], names: Sequence[str], where: str = "") -> str:
    """What to say of a column that is not there: what is, and which one may be meant."""
    plain = [shown(column, 40) for column in columns if column.strip()]
    lower = {column.lower(): column for column in plain}
    near = [near for name in names for near in did_you_mean(name, lower)]
    hint = f" Rename {lower[near[0]]}?" if near else ""
    has = ", ".join(plain[:8]) + (" ..." if len(plain) > 8 else "")
    return f"{path} has no column {names[0]!r}{where} (it has: {has or 'nothing'}).{hint}"


def _read_list(path: Path) -> Rows:
    with _opened(path) as file:
        return Rows([line for line in (raw.strip() for raw in file) if line])


def _read_csv(path: Path, need: Sequence[str]) -> Rows:
    paths: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    empty: list[int] = []
    try:
        with _opened(path) as file:
            own = DELIMITERS.get(path.suffix.lower(), ",")
            reader = csv.reader(file, delimiter=_delimiter(file, own))
            columns = next(reader, [])
            at = [find_column(columns, names) for names in (PATH, LABEL, SPLIT)]
            for where, names in zip(at, (PATH, LABEL), strict=False):
                if where is None and (names is PATH or names[0] in need):
                    raise DataError(no_column(path, columns, names, " in its first line"))
            for row in reader:
                if not row:
                    continue
                name, label, split = (
                    row[i].strip() if i is not None and i < len(row) else "" for i in at
                )
                if not name or (not label and "label" in need):
                    empty.append(reader.line_num)
                paths.append(name)
                labels.append(sys.intern(label))  # a few words, many times
                splits.append(sys.intern(split.lower()))
    except csv.Error as error:
        raise DataError(f"{path} cannot be read: {shown(error)}") from None
    if empty:
        what = "path or no label" if "label" in need else "path"
        raise DataError(f"{path}: line {empty[0]} has no {what} ({len(empty)} such lines)")
    return Rows(paths, None if at[1] is None else labels, None if at[2] is None else splits)


def _delimiter(file: TextIO, own: str) -> str:
    """That of the suffix, unless the first line has a column of paths only with another one, as
    some spreadsheets write it.
    """
    line = file.readline(1 << 16)
    file.seek(0)
    for delimiter in (own, ";", "\t", ","):
        if find_column(next(csv.reader([line], delimiter=delimiter), []), PATH) is not None:
            return delimiter
    return own


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A text file, or one line that says why it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
