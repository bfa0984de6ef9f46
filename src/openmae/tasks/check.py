"""`openmae data check`: what a data set holds, and what is wrong with it."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from openmae.config.base import Options
from openmae.config.check import CheckConfig
from openmae.data.advice import command
from openmae.data.findings import findings
from openmae.data.source import Source
from openmae.data.sources import open_source
from openmae.data.survey import Survey, survey
from openmae.data.twins import Pair, duplicates, leakage
from openmae.data.workers import default_workers
from openmae.engine.log import duration, say, warn
from openmae.engine.runfolder import Results
from openmae.engine.textfile import write_text
from openmae.errors import DataError, StorageError
from openmae.report.survey import page
from openmae.tasks.checklines import lines

_EVERY = 60.0  # seconds between plain lines of progress
_FILES = ("report.html", "report.json", "bad_files.jsonl", "duplicates.csv", "leakage.csv")
_PAIR = ("kind", "path", "same_as", "bits", "similarity")
_ONE_PROCESS = 64  # images for which others are not worth their start


def run(config: CheckConfig, options: Options) -> Results:
    """Look, print one screen, and with --out write a report; exit code 3 with --strict and files
    that cannot be read.
    """
    began = time.monotonic()
    source = open_source(config.data, split="all")
    other = None if config.against is None else open_source(config.against, split="all")
    out = _out_folder(config, source, other)
    indices, table, known = _look(config, source, "")
    found = findings(source, indices, table)
    if not found["readable"]:
        first = found["bad"][0]
        raise DataError(
            f"None of {len(table)} images in {source.name} can be read. First: {first['path']}:"
            f" {first['reason']}"
        )
    pairs = _named(duplicates(table, config.near), source, indices, source, indices)
    found["duplicates"] = _summary(pairs)
    leaks: list[dict[str, Any]] = []
    if other is not None:
        there, theirs, _ = _look(config, other, "against: ")
        findings(other, there, theirs)  # marks what is nearly empty
        leaks = _named(leakage(table, theirs, config.near), other, there, source, indices)
        found["leakage"] = {"against": other.name, "looked": len(theirs)} | _summary(leaks)
    found["command"] = command(config.data, found)
    found["seconds"] = time.monotonic() - began
    found["from_cache"] = known
    for head, text in lines(found, pairs, leaks):
        say(head, text)
    if out is not None:
        _write(out, found, pairs, leaks)
        say("Report", str(out / "report.html"))
    say("Took", _speed(len(table), known, found["seconds"]))
    say("Next", found["command"])
    return Results(found, out, DataError.exit_code if config.strict and found["bad"] else 0)


def _out_folder(config: CheckConfig, *sources: Source | None) -> Path | None:
    if config.out is None:
        return None
    out = Path(config.out).expanduser()
    for source, words in zip(sources, (config.data, config.against), strict=True):
        root = getattr(source, "root", None) or Path(words or "").expanduser()
        if source is not None and root.is_dir() and out.resolve().is_relative_to(root.resolve()):
            raise StorageError(
                f"--out {out} lies in the data set, which is never written to. Give another folder"
            )
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file. Give another --out")
    others = sorted(p.name for p in out.iterdir() if p.name not in _FILES) if out.exists() else []
    if others:
        raise StorageError(
            f"{out} holds other files ({others[0]} ..): refusing. Give another --out"
        )
    return out


def _look(config: CheckConfig, source: Source, head: str) -> tuple[Any, Survey, int]:
    count = len(source)
    if config.fraction is not None:
        count = max(1, round(config.fraction * count))
    count = min(config.look or count, count)
    indices = np.unique(np.linspace(0, len(source) - 1, count).round().astype(np.int64))
    workers = default_workers() if config.workers is None else config.workers
    progress = _Progress(head)
    try:
        with progress:
            table, known = survey(
                source, indices, True, workers if count > _ONE_PROCESS else 0, progress.show
            )
    except KeyboardInterrupt:
        warn(
            f"stopped at {progress.done:,} of {count:,} images. What was measured is kept: the same"
            " command goes on from there"
        )
        raise
    return indices, table, known


def _named(
    pairs: list[Pair], later: Source, those: Any, earlier: Source, these: Any
) -> list[dict[str, Any]]:
    return [
        {
            "kind": "exact" if pair.exact else "near",
            "path": later.path(int(those[pair.later])),
            "same_as": earlier.path(int(these[pair.earlier])),
            "bits": pair.bits,
            "similarity": round(pair.similarity, 4),
        }
        for pair in pairs
    ]


def _summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    exact = sum(pair["kind"] == "exact" for pair in pairs)
    return {"exact": exact, "near": len(pairs) - exact, "pairs": pairs}


def _speed(count: int, known: int, seconds: float) -> str:
    measured = f", {(count - known) / max(seconds, 1e-3):,.0f} images/s" if count > known else ""
    kept = f" ({known:,} of {count:,} known from before)" if known else ""
    return f"{duration(seconds)}{measured}{kept}"


def _write(
    out: Path, found: dict[str, Any], pairs: list[dict[str, Any]], leaks: list[dict[str, Any]]
) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "report.json", json.dumps(found, indent=1) + "\n")
        bad = [json.dumps(line) + "\n" for line in found["bad"]]
        write_text(out / "bad_files.jsonl", "".join(bad))
        write_text(out / "duplicates.csv", _table(pairs))
        if "leakage" in found:
            write_text(out / "leakage.csv", _table(leaks))
        write_text(out / "report.html", page(found))
    except OSError as error:
        raise StorageError(f"{error.filename or out}: {error.strerror or error}") from None


def _table(pairs: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _PAIR, lineterminator="\n")
    writer.writeheader()
    writer.writerows(pairs)
    # names that are no UTF-8 are written so that they can be read by any program
    return text.getvalue().encode("utf-8", "backslashreplace").decode()


class _Progress:
    """One line rewritten on a terminal, a plain line a minute otherwise."""

    def __init__(self, head: str) -> None:
        self.head, self.done = head, 0
        self._live: Live | None = None
        if sys.stdout.isatty():
            console = Console(file=sys.stdout)
            self._live = Live(console=console, transient=True, auto_refresh=False)
        self._began = self._last = time.monotonic()

    def __enter__(self) -> _Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, done: int, total: int) -> None:
        """So many of all."""
        self.done, now = done, time.monotonic()
        if now - self._last < (0.2 if self._live else _EVERY):
            return
        self._last = now
        left = (now - self._began) / done * (total - done)
        line = f"{self.head}{done:,}/{total:,} images  left {duration(left)}"
        if self._live:
            self._live.update(Text(line, overflow="ellipsis", no_wrap=True), refresh=True)
        else:
            print(line, flush=True)
