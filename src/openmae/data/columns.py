"""Which columns of a Parquet file describe images, found by name and type; no other one is read.

Hugging Face's form is understood: a column of {bytes, path}, and names of classes in the file's
metadata. Needs pyarrow.
"""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from openmae.data.names import shown
from openmae.data.table import LABEL, PATH, SPLIT, Rows, find_column, no_column
from openmae.errors import DataError, UsageError

T = TypeVar("T")

_BYTES = ("bytes", "image", "img", "image_bytes")
_LARGEST = 1 << 30  # bytes that a row group may unpack to
_ROWS = 1 << 31


class Columns(NamedTuple):
    """Names as Parquet writes them ("image.bytes" is a field of a column); None: there is none.

    `classes` are the names of the numbers in `label`.
    """

    image: str | None
    path: str | None
    label: str | None
    split: str | None
    classes: tuple[str, ...] | None


def open_file(path: Path) -> Any:
    """A pyarrow.parquet.ParquetFile, mapped; to be closed.

    Raises:
        UsageError: pyarrow is not installed.
        DataError: it is no Parquet file.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f'{path} needs pyarrow: pip install "openmae[tables]"') from None
    with _reading(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} is not a file")
        return pyarrow.parquet.ParquetFile(path, memory_map=True)


def read_file(path: Path, do: Callable[[Any], T]) -> T:
    """What a function makes of an open file.

    Raises:
        UsageError: pyarrow is not installed.
        DataError: the file cannot be read.
    """
    with open_file(path) as file, _reading(path):
        return do(file)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of pyarrow, which are kinds of these, in a line."""
    from pyarrow import ArrowException

    try:
        yield
    except OSError as error:
        reason = error.strerror or shown(error)
        raise DataError(f"{path} cannot be read: {reason}") from None
    except (ArrowException, ValueError) as error:
        raise DataError(f"{path} cannot be read: {shown(error)}") from None


def columns_of(path: Path) -> Columns:
    """The columns of one file.

    Raises:
        DataError: neither images as bytes nor paths.
    """
    schema = read_file(path, lambda file: file.schema_arrow)
    kinds = {field.name: _kind(field.type) for field in schema}
    text, image = (
        _named(kinds, kind, names) for kind, names in (("text", PATH), ("bytes", _BYTES))
    )
    struct = _named(kinds, "image", _BYTES) or next((k for k in kinds if kinds[k] == "image"), None)
    if struct is not None:
        image = f"{struct}.bytes"
        field = schema.field(struct).type
        at = field.get_field_index("path")
        text = f"{struct}.path" if at >= 0 and _kind(field.field(at).type) == "text" else text
    if image is None and text is None:
        raise DataError(f"{no_column(path, schema.names, PATH)} Nor one of bytes")
    label = _named(kinds, ("text", "whole"), LABEL)
    return Columns(image, text, label, _named(kinds, "text", SPLIT), _classes(schema, label))


def _named(
    kinds: dict[str, str], wanted: str | tuple[str, ...], names: tuple[str, ...]
) -> str | None:
    """The column of one of these names that is of the kind."""
    fit = [name for name, kind in kinds.items() if kind and kind in wanted]
    at = find_column(fit, names)
    return None if at is None else fit[at]


def _kind(kind: Any) -> str:
    import pyarrow.types as t

    if t.is_dictionary(kind):
        return _kind(kind.value_type)
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return "text"
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_binary_view(kind):
        return "bytes"
    if t.is_struct(kind):
        at = kind.get_field_index("bytes")
        return "image" if at >= 0 and _kind(kind.field(at).type) == "bytes" else ""
    return "whole" if t.is_integer(kind) else ""


def _classes(schema: Any, label: str | None) -> tuple[str, ...] | None:
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = told["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def read_columns(path: Path, columns: Columns) -> Rows:
    """Paths ("" where there is none), labels and splits, without the images.

    Raises:
        DataError: it cannot be read.
    """
    count: int = read_file(path, lambda file: file.metadata.num_rows)
    if count > _ROWS:
        raise DataError(f"{path} says that it has {count:,} rows; at most {_ROWS:,} are read")
    wanted = [name for name in columns[1:4] if name]

    def read(file: Any) -> list[list[Any] | None]:
        table = file.read(columns=wanted, use_threads=False)
        return [
            None if name is None else field_of(table, name).to_pylist() for name in columns[1:4]
        ]

    paths, labels, splits = read_file(path, read)
    return Rows(
        [""] * count if paths is None else [p or "" for p in paths],
        labels,
        None if splits is None else [(s or "").strip().lower() for s in splits],
        None if columns.classes is None else list(columns.classes),
    )


def read_paths(path: Path) -> Rows:
    """A table of paths, with labels and splits.

    Raises:
        DataError: it cannot be read, or a row has no path.
    """
    columns = columns_of(path)
    if columns.path is None:
        names = read_file(path, lambda file: file.schema_arrow.names)
        raise DataError(no_column(path, names, PATH))
    return with_paths(path, read_columns(path, columns))


def with_paths(path: Path, rows: Rows) -> Rows:
    """The rows, none without a path.

    Raises:
        DataError: one is.
    """
    empty = [number for number, name in enumerate(rows.paths) if not name]
    if empty:
        raise DataError(f"{path}: row {empty[0]} has no path ({len(empty)} such rows)")
    return rows


def field_of(table: Any, name: str) -> Any:
    """A column of a table, or a field of one."""
    import pyarrow.compute as pc

    if name in table.column_names:
        return table.column(name)
    outer, _, field = name.rpartition(".")
    return pc.struct_field(table.column(outer), field)


def row_groups(path: Path) -> NDArray[np.int64]:
    """Rows of each row group, (G,).

    Raises:
        DataError: one would fill the memory.
    """

    def count(file: Any) -> list[int]:
        # not the sizes of single columns: pyarrow ends the process where a damaged file's are asked
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        for number, group in enumerate(groups):
            size = group.total_byte_size
            if size > _LARGEST:
                raise DataError(
                    f"{path}: row group {number} unpacks to {size / 2**30:.1f} GiB, at most 1 is"
                    " read at random. Write the file with row_group_size=1000"
                )
        return [group.num_rows for group in groups]

    return np.array(read_file(path, count), dtype=np.int64)


def read_group(path: Path, file: Any, group: int, column: str) -> Any:
    """One row group of a column of an open file, a pyarrow.ChunkedArray; in this thread only, so
    that a forked process may do it.

    Raises:
        DataError: it cannot be read.
    """
    with _reading(path):
        return field_of(file.read_row_group(group, columns=[column], use_threads=False), column)
