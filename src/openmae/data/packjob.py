"""What is to be packed, and what a folder already holds of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from openmae.data.packed import is_packed
from openmae.data.packindex import BAD, INDEX, UNFINISHED, Index
from openmae.data.records import Form
from openmae.data.source import Source
from openmae.errors import DataError, StorageError, UsageError


def job_of(source: Source, form: Form) -> dict[str, Any]:
    """What is to be packed, and how: two that agree make the same bytes."""
    digest = hashlib.sha256()
    for line in source.listing():
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    digest.update(np.ascontiguousarray(source.labels).tobytes())
    digest.update(json.dumps(source.classes).encode())
    splits = splits_of(source)
    digest.update(b"" if splits is None else splits.tobytes())
    listed = {"count": len(source), "listing": digest.hexdigest()}
    return {"options": form._asdict(), "source": listed}


def state_of(out: Path, job: dict[str, Any]) -> str:
    """ "new", "begun" or "done": what a folder holds of a job.

    Raises:
        StorageError: it is a file, or holds something else.
        UsageError: it holds the same images packed in another way.
        DataError: it holds other images.
    """
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file. Name a new folder to pack into")
    names = {p.name for p in out.iterdir()} if out.is_dir() else set()
    if INDEX in names and is_packed(out):
        found, state = Index(out).head, "done"
    elif UNFINISHED in names:
        found, state = _read_job(out / UNFINISHED), "begun"
    elif others := sorted(n for n in names if n not in (BAD, ".lock") and n[:5] != ".tmp-"):
        raise StorageError(f"{out} holds other files ({others[0]}): refusing. Name a new folder")
    else:
        return "new"
    for name, value in job["options"].items():
        if found["options"].get(name) != value:
            raise UsageError(
                f"{out} was packed with {name.replace('_', '-')} {found['options'].get(name)}, not"
                f" {value}. Name another folder, or remove this one"
            )
    if found["source"] != job["source"]:
        raise DataError(
            f"{out} holds other images ({found['source'].get('count')}, these are"
            f" {job['source']['count']}), or the files have changed since. Name another folder, or"
            " remove this one"
        )
    return state


def _read_job(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(path.read_bytes())
        return {name: dict(found[name]) for name in ("options", "source")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StorageError(
            f"{path} cannot be read ({type(error).__name__}). Remove {path.parent} and pack again"
        ) from None


def splits_of(source: Source) -> np.ndarray[Any, Any] | None:
    """(N,) int8 as in `openmae.data.splits`, where the source itself has a split."""
    table = getattr(source, "table_splits", None)
    return None if table is None else np.asarray(table, dtype=np.int8)[source.rows]
