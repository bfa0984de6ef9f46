"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from openmae.engine.runfolder import CONFIG
from openmae.errors import StorageError


def require_folder(name: str, fix: str = "name another") -> Path:
    """The path of a file to write.

    Raises:
        StorageError: there is no folder for it.
    """
    path = Path(name).expanduser()
    if not path.parent.is_dir():
        raise StorageError(f"{Path(name).parent} does not exist. Make it first, or {fix}")
    return path


def require_place(out: Path, word: str) -> None:
    """Check that a folder of results can be there, new or once more; `word` is what it holds.

    Raises:
        StorageError: it cannot.
    """
    if (out / CONFIG).exists():
        raise StorageError(f"{out} is a run folder. Give another -o")
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file. Give a folder: -o {out.with_suffix('')}-{word}")
    if not out.parent.is_dir():
        raise StorageError(f"{out.parent} does not exist. Make it first, or give another -o")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file under another name (with the same ending), then rename it.

    Raises:
        StorageError: it cannot be written.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from None
