"""What says that an image is still the one that was measured: path, size and times of its file."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.folder import FolderSource
from openmae.data.packed import PackedSource
from openmae.data.source import ArraySource, Source

_RACE = 2_000_000_000  # ns: a file as young as this may change again within the same tick


def stamps(source: Source, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for each row that changes with the image; 0 where none can be had, so that the image
    is measured each time.
    """
    if isinstance(source, FolderSource):
        root = os.path.abspath(source.root)
        lines = [_of_file(os.path.join(root, source.files[row])) for row in rows.tolist()]
    else:
        whole = _container(source)
        lines = [whole and f"{whole}\t{_part(source, row)}" for row in rows.tolist()]
    return np.array([_number(line) for line in lines], dtype=np.uint64)


def _part(source: Any, row: int) -> str:
    """An image of a container, without the label."""
    if isinstance(source, ArraySource | PackedSource):
        return source.row_line(row)  # with a hash of what it holds
    shards = getattr(source, "shards", None)
    if shards is None:
        return str(row)
    shard = shards.shards[source.shard[row]]
    return f"{shard.where}\t{shard.size}\t{shard.stamp}\t{source.offsets[row]}\t{source.sizes[row]}"


def _container(source: Any) -> str:
    """The files that all rows come from, or "" where they are not known."""
    if isinstance(source, ArraySource | PackedSource):
        return "by content"
    if getattr(source, "shards", None) is not None:
        return "by shard"
    files = getattr(source, "files", None)
    paths = [os.path.join(source.root, f) for f in files] if files else [source.name]
    lines = [_of_file(os.path.abspath(os.path.expanduser(path))) for path in paths]
    return "\n".join(lines) if all(lines) else ""


def _of_file(path: str) -> str:
    """Path, size and times, "" for what is no file or was changed a moment ago.

    The time of the last change of the inode counts too: tools that keep the time of modification
    cannot keep that one.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ""
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _RACE:
        return ""
    return f"{path}\t{found.st_size}\t{found.st_mtime_ns}\t{found.st_ctime_ns}"


def _number(line: str) -> int:
    if not line:
        return 0
    data = line.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") or 1
