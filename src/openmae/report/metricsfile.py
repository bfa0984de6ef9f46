"""metrics.jsonl as columns of numbers: read once, then only what was added. Whatever cannot be read
is counted and passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json  # of which pydantic is made; twice as fast as json

Numbers = NDArray[np.float64]

AXES = {"steps": "step", "images": "images seen", "epochs": "epoch", "hours": "hours of training"}
"""What curves can be drawn over, and how an axis is called."""

_BLOCK = 1 << 20  # bytes read, and parsed, at once: far faster than line by line
_HUGE = 1e100  # what is larger is taken for not finite: it could not be drawn
_MOST = 200  # columns; a damaged file may seem to have any number


class Metrics:
    """The columns of a file that may grow: `steps(name)` and `values(name)`, both (n,), NaN where a
    value was not finite.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget(None)
        self.update()

    def _forget(self, inode: int | None) -> None:
        self._inode, self._at, self._rest = inode, 0, b""
        self._chunks: dict[str, list[Numbers]] = {}
        self._whole: dict[str, Numbers] = {}
        self.lines = self.torn = 0

    def update(self) -> bool:
        """Read what was added; all of it again when the file was replaced. True if it changed."""
        try:
            with self.path.open("rb") as file:
                return self._read(file)
        except OSError:
            changed = self.lines > 0
            self._forget(None)
            return changed

    def _read(self, file: Any) -> bool:
        now = os.fstat(file.fileno())
        if now.st_ino != self._inode or now.st_size < self._at:
            self._forget(now.st_ino)
        file.seek(self._at)
        before = self._at
        while block := file.read(_BLOCK):
            self._at += len(block)
            lines, end, rest = block.rpartition(b"\n")
            if not end:
                self._rest += block
                continue
            self._add(self._rest + lines)
            self._rest = rest
        if self._at != before:
            self._whole.clear()
        return self._at != before

    @property
    def cut(self) -> bool:
        """Whether the last line is not finished: it is being written, or its writer was killed."""
        return bool(self._rest.strip())

    def _add(self, lines: bytes) -> None:
        alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in _rows(lines):
            if isinstance(row, dict) and "step" in row:
                alike.setdefault(tuple(row), []).append(row)
                self.lines += 1
            else:
                self.torn += 1
        for names, rows in alike.items():
            table = _table(rows, names)
            steps = table[names.index("step")]
            good = (steps >= 0) & (steps < 1e15)
            for name, column in zip(names, table, strict=True):
                if len(self._chunks) < _MOST or name in self._chunks:
                    pair = np.stack([steps[good], column[good]])
                    self._chunks.setdefault(name, []).append(pair)

    def _pair(self, name: str) -> Numbers:
        """(2, n): steps and values, in the order of steps."""
        if name not in self._whole:
            chunks = self._chunks.get(name, [])
            pair = np.concatenate(chunks, axis=1) if chunks else np.empty((2, 0))
            if (np.diff(pair[0]) < 0).any():  # a file that is not ours, or two writers
                pair = pair[:, np.argsort(pair[0], kind="stable")]
            self._whole[name], self._chunks[name] = pair, [pair]
        return self._whole[name]

    @property
    def names(self) -> list[str]:
        """Columns with at least one finite number, in the order in which they came."""
        return [n for n in list(self._chunks) if np.isfinite(self.values(n)).any()]

    def steps(self, name: str) -> Numbers:
        """The steps at which a value was logged."""
        return self._pair(name)[0] if name in self._chunks else np.empty(0)

    def values(self, name: str) -> Numbers:
        """The values themselves."""
        return self._pair(name)[1] if name in self._chunks else np.empty(0)

    def last(self, name: str) -> float | None:
        """The last finite value."""
        values = self.values(name)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if len(finite) else None

    @property
    def step(self) -> int:
        """How far it came."""
        steps = self.steps("step")
        return int(steps[-1]) if len(steps) else 0

    def seconds(self) -> tuple[Numbers, Numbers]:
        """Steps, and seconds of training up to each: of all windows of steps that were logged."""
        steps, rates = self.steps("images_per_s"), self.values("images_per_s")
        images = steps * self._ratio("images")
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.diff(images, prepend=0.0) / rates
        return steps, np.cumsum(np.where(np.isfinite(each), each, 0.0))

    def _ratio(self, name: str) -> float:
        """Of images or epochs to steps: the batch is the same all along."""
        steps, values = self.steps(name), self.values(name)
        good = np.isfinite(values) & (steps > 0)
        return float((values[good] / steps[good])[-1]) if good.any() else float("nan")

    def along(self, axis: str, steps: Numbers) -> Numbers:
        """Where steps lie on an axis of `AXES`; NaN where that is not known."""
        if axis == "steps":
            return steps
        if axis != "hours":
            return steps * self._ratio({"images": "images", "epochs": "epoch"}[axis])
        known, seconds = self.seconds()
        if not len(known):
            return np.full(len(steps), np.nan)
        found: Numbers = np.interp(steps, [0.0, *known], [0.0, *(seconds / 3600)])
        return found


def _rows(lines: bytes) -> Iterator[Any]:
    """What each line holds; None for one that is no JSON."""
    try:
        yield from from_json(b"[" + lines.replace(b"\n", b",") + b"]")
    except ValueError:
        for line in lines.split(b"\n"):
            try:
                if line.strip():
                    yield from_json(line)
            except ValueError:
                yield None


def _table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Numbers:
    """(columns, rows) of rows that have the same names; what is no number becomes NaN."""
    flat = list(chain.from_iterable(map(dict.values, rows)))
    try:
        table = np.array(flat, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        table = np.empty(0)
    if table.shape != (len(flat),):
        table = np.array([_number(value) for value in flat])
    table[~(np.abs(table) < _HUGE)] = np.nan
    return table.reshape(len(rows), len(names)).T


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:
        return float("nan")
