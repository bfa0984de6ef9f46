"""Where a task that reads a model writes its result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from openmae.data.sources import short_name
from openmae.engine.runfolder import CONFIG, RunFolder
from openmae.errors import StorageError
from openmae.weights import Loaded


def result_folder(
    out: str | None, loaded: Loaded, task: str, data: str, writes: bool = True
) -> RunFolder | None:
    """Where a task writes: --out, or inside the run; nowhere for an encoder without a run. Of
    several ranks only the first one `writes`.
    """
    name = f"{task}-{short_name(data)}"
    path = Path(out).expanduser() if out else loaded.run / name if loaded.run else None
    if path is None:
        return None
    if (path / CONFIG).exists():
        raise StorageError(
            f"{path} is a run folder. Drop --out (the result then goes to {name} inside the run),"
            " or give another"
        )
    if path.exists() and not path.is_dir():
        raise StorageError(f"{path} is a file. Give another --out")
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path, writes)


@contextlib.contextmanager
def nothing_left(folder: RunFolder | None) -> Iterator[None]:
    """An error takes the folder of the result away again, if it is still empty."""
    try:
        yield
    except BaseException:
        if folder is not None:
            with contextlib.suppress(OSError):
                folder.path.rmdir()
        raise
