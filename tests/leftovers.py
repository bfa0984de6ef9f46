"""What a session of tests leaves behind: processes, shared memory, temporary files. It must be
nothing, else the session fails.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path

_MARK = "OPENMAE_TEST_SESSION"
_OTHERS = ("pymp-", "torchinductor", "matplotlib-", "listener-", "torch_", "joblib", ".ses")
"""Of libraries (.ses: onnxruntime), for processes that the tests kill, or that live as long as this
one.
"""

_PATIENCE = 10.0  # seconds in which processes that were told to end may do so


class Leftovers:
    """Remembers what is there before the first test. Every process that is started below carries a
    mark in its environment, and puts temporary files into a folder of this session.
    """

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        before = tempfile.gettempdir()
        self.folder = Path(tempfile.mkdtemp(prefix="openmae-tests-"))
        user = getpass.getuser() if os.environ.get("USER") or os.geteuid() == 0 else "tests"
        os.environ[_MARK] = self.mark
        os.environ["TMPDIR"] = str(self.folder)
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", before)  # where tmp_path is, as without us
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{before}/torchinductor_{user}")
        tempfile.tempdir = None
        self.shared = _shared()

    def found(self) -> list[str]:
        """A line for each thing that is left."""
        until = time.monotonic() + _PATIENCE
        while (lines := self._alive()) and time.monotonic() < until:
            time.sleep(0.05)
        return lines + [f"{self.folder}/{name}" for name in self.temporary()]

    def _alive(self) -> list[str]:
        """Processes, and shared memory of processes that are gone."""
        lines = [f"process {pid}: {words}" for pid, words in self.processes()]
        new = sorted(_shared() - self.shared)
        return lines + [f"/dev/shm/{name}" for name in new if _dead(name)]

    def processes(self) -> list[tuple[int, str]]:
        """Processes but this one that carry the mark."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            if int(path.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if f"{_MARK}={self.mark}".encode() in (path / "environ").read_bytes():
                    words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if "resource_tracker" not in words:  # of this process, and ends with it
                        found.append((int(path.name), words[:150]))
        return found

    def temporary(self) -> list[str]:
        """Files and folders that are not those of libraries."""
        names = (p.name for p in self.folder.iterdir()) if self.folder.is_dir() else ()
        return sorted(name for name in names if not name.startswith(_OTHERS))

    def close(self) -> None:
        """Give the temporary folder back."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.environ.pop(_MARK, None)
        os.environ.pop("TMPDIR", None)
        tempfile.tempdir = None


def _shared() -> set[str]:
    folder = Path("/dev/shm")
    return {p.name for p in folder.iterdir()} if folder.is_dir() else set()


def _dead(name: str) -> bool:
    """Whether the process in a name of torch's or Python's is gone: others use the machine too."""
    numbers = [int(part) for part in name.split("_") if part.isdigit()]
    return not any(Path(f"/proc/{number}").exists() for number in numbers)
