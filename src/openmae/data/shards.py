"""Archives as numbered files with random access: found by the user's words, read by byte ranges."""

from __future__ import annotations

import glob
import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from openmae.data import remote
from openmae.errors import DataError

COMPRESSED = {
    ".gz": "gunzip -k",
    ".tgz": "gunzip -k",
    ".bz2": "bunzip2 -k",
    ".tbz2": "bunzip2 -k",
    ".tbz": "bunzip2 -k",
    ".xz": "unxz -k",
    ".txz": "unxz -k",
    ".zst": "unzstd",
    ".tzst": "unzstd",
    ".lz4": "unlz4",
}
"""Last suffix of a compressed tar, and what unpacks it to a plain one."""

MAX_SHARDS = 100_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_OPEN = 32  # files that stay open in a process
_THREADS = 8  # remote files are asked about at the same time


class Shard(NamedTuple):
    """A file that holds images.

    Attributes:
        name: for paths and messages; unlike those of the others.
        where: absolute path, or URL.
        size: in bytes.
        stamp: changes when the content does: mtime in ns, or what a server says.
    """

    name: str
    where: str
    size: int
    stamp: str


class Shards:
    """Bytes of numbered files. Each process opens them for itself; some stay open."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = list(shards)
        self._begin()

    def _begin(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._open: OrderedDict[int, _File] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["shards"])  # type: ignore[misc]

    def read(self, number: int, start: int, count: int) -> bytes:
        """`count` bytes of a file from `start` on; fewer at its end.

        Raises:
            DataError: it cannot be read, or is no longer the file that was opened first.
        """
        shard = self.shards[number]
        if remote.is_remote(shard.where):
            return remote.read(shard.where, start, count)
        if self._pid != os.getpid():  # a loader's process, forked
            self._begin()
        try:
            with self._lock:
                file = self._open.pop(number, None) or _File(shard)
                self._open[number] = file
                if len(self._open) > _OPEN:
                    self._open.popitem(last=False)
            if os.fstat(file.handle).st_size != shard.size:  # a new time alone is no new content
                raise DataError(f"{shard.name} has changed since it was opened. Start again")
            return _pread(file.handle, start, count)
        except OSError as error:
            raise DataError(f"{shard.name}: {error.strerror or error}") from None


class _File:
    """An open file; closed with its last reference, so never while another thread reads it."""

    def __init__(self, shard: Shard) -> None:
        self.handle = -1
        self.handle = os.open(shard.where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


def _pread(handle: int, start: int, count: int) -> bytes:
    parts = []
    while count > 0:
        part = os.pread(handle, min(count, 1 << 30), start)
        if not part:
            break
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def find_shards(words: str, suffix: str) -> list[Shard] | None:
    """The files that words name: one, a folder of them, a pattern (`*`) or a range
    (`{000..146}`), here or elsewhere; None when the words are of another kind.

    Raises:
        DataError: some are not there, or cannot be read.
    """
    if remote.is_remote(words):
        return _remote(words, suffix)
    whole = os.path.expanduser(words)
    if os.path.isdir(whole):
        found = sorted(_below(Path(whole), suffix))
        return _describe(found) if found else None
    if os.path.lexists(whole):
        if os.path.splitext(whole)[1].lower() != suffix:
            return None
        return _describe([whole])
    if not whole.lower().endswith(suffix) or not re.search(r"[*?\[{]", whole):
        return None
    found = []
    for part in expand(whole):
        matches = sorted(glob.glob(part, recursive=True)) if glob.has_magic(part) else [part]
        found += [m for m in matches if m.lower().endswith(suffix)]
    if not found:
        raise DataError(f"{words} matches no file. Check the folder and the pattern")
    gone = [path for path in found if not os.path.exists(path)]
    if gone:
        raise DataError(
            f"{len(gone)} of the {len(found)} files of {words} do not exist. First: {gone[0]}"
        )
    return _describe(list(dict.fromkeys(found)))


def _below(root: Path, suffix: str) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(suffix) and not name.startswith("."):
                yield os.path.join(folder, name)


def _remote(words: str, suffix: str) -> list[Shard] | None:
    path = remote.public(words)
    ending = os.path.splitext(path.rstrip("/"))[1].lower()
    if ending == suffix:
        urls = []
        for part in expand(words):
            protocol = part.split("://", 1)[0].lower()
            pattern = re.search(r"[*?\[]", remote.public(part)) is not None
            if pattern and protocol.startswith("http"):
                raise DataError(
                    f"{path}: web servers have no folders. Name the files by a range:"
                    f" .../train-{{000..146}}{suffix}"
                )
            urls += remote.below(part, suffix) if pattern else [part]
    elif ending in COMPRESSED or (ending and not words.endswith("/")) or suffix != ".tar":
        return None
    elif words.split("://", 1)[0].lower() in ("http", "https", "hf"):
        return None  # no folders on the web; on the hub a folder is a data set
    else:
        urls = remote.below(words.rstrip("/"), suffix)
    if not urls:
        raise DataError(f"{path} holds no {suffix} files. Check the name")
    urls = list(dict.fromkeys(urls))
    with ThreadPoolExecutor(_THREADS) as pool:
        facts = list(pool.map(remote.describe, urls))
    names = _names([remote.public(url) for url in urls])
    return [Shard(n, u, *f) for n, u, f in zip(names, urls, facts, strict=True)]


def _describe(paths: Sequence[str]) -> list[Shard]:
    found = []
    for name, path in zip(_names(paths), paths, strict=True):
        try:
            status = os.stat(path)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from None
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a regular file")
        found.append(Shard(name, os.path.abspath(path), status.st_size, str(status.st_mtime_ns)))
    return found


def _names(paths: Sequence[str]) -> list[str]:
    """The part of each path that differs; numbered where only what is secret does."""
    whole = [p if "://" in p else os.path.abspath(p) for p in paths]
    common = os.path.commonpath([os.path.dirname(path) for path in whole])
    names = [os.path.relpath(path, common) for path in whole]
    distinct = len(set(names)) == len(names)
    return names if distinct else [f"{i}-{name}" for i, name in enumerate(names)]


def expand(words: str) -> list[str]:
    """`a{08..10}.tar` -> a08.tar a09.tar a10.tar; `{x,y}` -> x y; several such parts in order.

    Raises:
        DataError: more than 100,000 of them, or a range that runs backwards.
    """
    done, todo = [], [words]
    while todo:
        one = todo.pop()
        found = _RANGE.search(one)
        if found is None:
            done.append(one)
            continue
        if found[3] is not None:
            middle = found[3].split(",")
        else:
            first, last = int(found[1]), int(found[2])
            if last < first or last - first >= MAX_SHARDS:
                raise DataError(f"{words}: give a range from small to large, below {MAX_SHARDS:,}")
            width = len(found[1]) if found[1].startswith("0") else 0
            middle = [str(number).zfill(width) for number in range(first, last + 1)]
        todo += [one[: found.start()] + m + one[found.end() :] for m in reversed(middle)]
        if len(todo) + len(done) > MAX_SHARDS:
            raise DataError(f"{words} names more than {MAX_SHARDS:,} files")
    return done
