"""Where caches live, and small files of arrays or JSON in it by key.

$OPENMAE_CACHE, else $XDG_CACHE_HOME/openmae, else ~/.cache/openmae. A cache is never needed: where
it cannot be written, or an entry is damaged, everything is done again without a word. Nothing is
ever read from it that could run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CAP = 4_000_000_000  # bytes of all entries together; the longest unused go first
_ENTRY = 1_000_000_000  # bytes of one entry


def cache_folder() -> Path | None:
    """The folder of all caches, made if need be; None where there can be none."""
    try:
        folder = _named()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # read-only, full, a file in its place; no home
        return None
    return folder if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else None


def _named() -> Path:
    if own := os.environ.get("OPENMAE_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # the specification of XDG ignores paths that are not absolute
    base = Path(shared) if os.path.isabs(shared) else Path.home() / ".cache"
    return base / "openmae"


def inside(folder: Path) -> bool:
    """Whether the caches lie inside a folder, such as a data set, which must stay as it is."""
    try:
        return _named().resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False


def key_of(kind: str, *parts: str | bytes | int | float) -> str:
    """A key: what is kept, and a hash of everything that it depends on, its version included."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(8, "big") + data)
    return f"{kind}-{digest.hexdigest()}"


def read_arrays(key: str) -> dict[str, NDArray[Any]] | None:
    """The arrays that were kept under a key, or None."""
    data = _read(f"{key}.npz")
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data)) as file:  # plain arrays only, numpy's default
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def write_arrays(key: str, arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Keep arrays of numbers or fixed-width text under a key; False where it cannot be done.

    Raises:
        TypeError: an array of Python objects.
    """
    if any(array.dtype.hasobject for array in arrays.values()):
        raise TypeError("only numbers and fixed-width text are kept")
    if sum(array.nbytes for array in arrays.values()) > _ENTRY:
        return False
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return _write(f"{key}.npz", buffer.getbuffer())


def read_json(key: str) -> Any:
    """What was kept under a key, or None."""
    data = _read(f"{key}.json")
    try:
        return None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        return None


def write_json(key: str, value: Any) -> bool:
    """Keep a JSON value under a key; False where it cannot be done."""
    data = json.dumps(value).encode()
    return len(data) <= _ENTRY and _write(f"{key}.json", data)


def _read(name: str) -> bytes | None:
    folder = cache_folder()
    if folder is None:
        return None
    try:
        data = (folder / name).read_bytes()
        os.utime(folder / name)  # the oldest go first
    except OSError:
        return None
    return data


def _write(name: str, data: bytes | memoryview) -> bool:
    folder = cache_folder()
    if folder is None:
        return False
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, folder / name)  # whole or not at all, also beside other processes
    except OSError:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False
    _trim(folder, name)
    return True


def _trim(folder: Path, newest: str) -> None:
    """Remove what was unused longest until everything fits."""
    with contextlib.suppress(OSError):
        found = [e for e in os.scandir(folder) if e.name.endswith((".npz", ".json", ".part"))]
        sizes = {e.path: (s.st_mtime, s.st_size) for e in found for s in [e.stat()]}
        total = sum(size for _, size in sizes.values())
        for path, (_, size) in sorted(sizes.items(), key=lambda item: item[1][0]):
            if total <= CAP:
                return
            if os.path.basename(path) != newest:
                os.unlink(path)
                total -= size
