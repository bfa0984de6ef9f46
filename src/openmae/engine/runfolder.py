"""The run folder: the only contract between tasks.

config.yaml (complete, re-runnable, with `resolved`), metrics.jsonl, status.json, environment.json,
anomalies.jsonl, checkpoints/, encoder.safetensors, results.json, pictures/.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from openmae.engine.textfile import write_text
from openmae.errors import StorageError
from openmae.reprs import lines, table

CONFIG = "config.yaml"
_START = (".lock", "environment.json", "data_files.txt", "bad_files.jsonl", "status.json", CONFIG)


class Results(dict[str, Any]):
    """What a task returns: {metric: value}, with the folder of its files and its exit code."""

    def __init__(
        self, values: Mapping[str, Any], folder: Path | None = None, exit_code: int = 0
    ) -> None:
        super().__init__(values)
        self.folder, self.exit_code = folder, exit_code

    def __repr__(self) -> str:
        """A line for each value, with the folder."""
        where = "" if self.folder is None else f", files in {self.folder}"
        return "\n".join([f"Results: {len(self)} values{where}", *lines(self)])

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        return table(self, "Results" if self.folder is None else f"Results, files in {self.folder}")


class RunFolder:
    """Paths and small files of a run. Of several ranks only the first one `writes`."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self.checkpoints = path / "checkpoints"
        self.pictures = path / "pictures"
        self.encoder = path / "encoder.safetensors"
        self.metrics = path / "metrics.jsonl"

    def exists(self) -> bool:
        """True for a run of ours, False for a folder that is new or empty.

        Raises:
            StorageError: the path is a file, or a folder that holds something else.
        """
        if (self.path / CONFIG).is_file() and (self.path / "status.json").is_file():
            return True
        if self.path.exists() and not self.path.is_dir():
            raise StorageError(f"{self.path} is a file. Give another --out")
        others = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        if ".lock" in others:  # a start of ours that was killed
            others = [n for n in others if n not in _START and not n.startswith(".tmp-")]
        if others:
            shown = f"{others[0]} ..." if len(others) > 1 else others[0]
            raise StorageError(
                f"{self.path} holds other files ({shown}): refusing. Give a new or empty --out"
            )
        return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder; the lock dies with its process, so that a killed run leaves none.

        Raises:
            StorageError: another process holds it, or the folder cannot be written.
        """
        created, held = not self.path.exists(), False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be written: {error.strerror}. Give another --out"
            ) from None
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise StorageError(
                    f"{self.path} is in use by {file.read().strip() or 'another process'}"
                ) from None
            held = True
            file.truncate(0)
            file.write(
                f"pid {os.getpid()} on {os.uname().nodename} since"
                f" {time.strftime('%Y-%m-%d %H:%M')}"
            )
            file.flush()
            yield
        except BaseException:
            if held and created and not (self.path / CONFIG).exists():
                shutil.rmtree(self.path, ignore_errors=True)  # a failed start leaves nothing
            raise
        finally:
            file.close()

    def read_config(self) -> dict[str, Any]:
        """The saved settings, with "resolved".

        Raises:
            StorageError: the file is damaged.
        """
        try:
            values = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise StorageError(
                f"{self.path / CONFIG} cannot be read: {' '.join(str(error).split())[:120]}"
            ) from None
        if not isinstance(values, dict) or "resolved" not in values:
            raise StorageError(f"{self.path / CONFIG} is not the configuration of a run")
        return values

    def write_config(
        self, task: str, config: Mapping[str, Any], resolved: Mapping[str, Any]
    ) -> None:
        """Save the complete settings and everything that was chosen at run time."""
        if not self.writes:
            return
        values = {"task": task, **config, "resolved": dict(resolved)}
        write_text(self.path / CONFIG, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Replace a small JSON file; numbers must be finite."""
        if not self.writes:
            return
        write_text(
            self.path / name, json.dumps(values, indent=1, allow_nan=False, default=str) + "\n"
        )

    def status(
        self, state: str, step: int, total: int, reason: str = "", exit_code: int | None = None
    ) -> None:
        """status.json: what a script needs to know of the run."""
        resumable = state in ("stopped", "failed", "running")
        values = {
            "state": state,
            "step": step,
            "total": total,
            "reason": reason,
            "exit_code": exit_code,
        }
        self.write_json(
            "status.json",
            {**values, "resumable": resumable, "pid": os.getpid(), "time": time.time()},
        )

    def read_status(self) -> dict[str, Any]:
        """What status.json says; empty when it is damaged."""
        try:
            values = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a line of strict JSON to a .jsonl file; a full disk costs the line, not the run."""
        if not self.writes:
            return
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        except OSError:
            pass

    def trim_metrics(self, step: int) -> None:
        """Forget what was logged after the step that a run continues from."""
        if self.writes and self.metrics.exists():
            rows = [row for row in read_jsonl(self.metrics) if row.get("step", 0) <= step]
            write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; a torn line (a killed writer) is passed over."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows


def require_space(path: Path, bytes_each: int, count: int) -> None:
    """Raise StorageError unless `count` files of a size, and one more while it is written, fit on
    the disk.
    """
    parent = _existing(path)
    if not os.access(parent, os.W_OK):
        raise StorageError(f"{parent} cannot be written. Give another --out")
    free, needed = shutil.disk_usage(parent).free, int(1.1 * bytes_each * (count + 1))
    if free < needed:
        raise StorageError(
            f"{parent} has {gigabytes(free)}, the run needs {gigabytes(needed)} for {count}"
            " checkpoints and one being written. --keep 2, or --out elsewhere"
        )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def free_space(path: Path) -> int:
    """Bytes free on the disk of a path, which need not exist yet."""
    return shutil.disk_usage(_existing(path)).free


def gigabytes(size: float) -> str:
    """Bytes as people say them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
