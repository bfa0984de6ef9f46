"""Many images measured: in processes, each file once, kept in the cache until it changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmae.data import cache
from openmae.data.likeness import SMALL
from openmae.data.measure import COLUMNS, Measured
from openmae.data.names import Names
from openmae.data.source import Source
from openmae.data.stamps import stamps
from openmae.data.traits import Flag
from openmae.data.workers import measure_all

VERSION = 4  # of what is measured: a change of it forgets what was kept
_TEXTS = ("reasons", "bands")
_EVERY = 60.0  # seconds between copies to the cache, so that a killed look loses a minute

ROW = np.dtype(
    [
        ("stamp", "u8"),
        ("height", "i4"),
        ("width", "i4"),
        ("channels", "i4"),
        ("type", "S10"),
        ("format", "S10"),
        ("mode", "S16"),
        ("flags", "u4"),
        ("digest", "S16"),
        ("look", "u8"),
        ("picture", "u1", (SMALL * SMALL,)),
        ("count", "i4"),
    ]
)
"""An image; `count` are its rows of `stats`."""


@dataclass
class Survey:
    """What was measured of N images: `rows` (N,) of `ROW`, `stats` (S, 6) one after another, and
    for each the reason why it cannot be read, or "", and the names of its bands, tab between.
    """

    rows: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, dtype=ROW))
    stats: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, COLUMNS)))
    reasons: Names = field(default_factory=Names)
    bands: Names = field(default_factory=Names)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ends(self) -> NDArray[np.int64]:
        """Where the statistics of each image end."""
        found: NDArray[np.int64] = np.cumsum(self.rows["count"], dtype=np.int64)
        return found

    def has(self, flags: Flag) -> NDArray[np.bool_]:
        """(N,), which images have any of these flags."""
        found: NDArray[np.bool_] = (self.rows["flags"] & np.uint32(flags)) != 0
        return found

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Survey:
        """Some of the images, in this order."""
        which = np.asarray(indices, dtype=np.int64)
        counts, ends = self.rows["count"][which].astype(np.int64), self.ends[which]
        # of each image the numbers of its rows: from its start, one by one
        places = np.repeat(ends - counts, counts) + _steps(counts)
        reasons, bands = list(self.reasons), list(self.bands)
        return Survey(
            self.rows[which],
            self.stats[places],
            Names(reasons[i] for i in which.tolist()),
            Names(bands[i] for i in which.tolist()),
        )

    def plus(self, other: Survey) -> Survey:
        """These, then others."""
        return Survey(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.stats, other.stats]),
            Names([*self.reasons, *other.reasons]),
            Names([*self.bands, *other.bands]),
        )


def _steps(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, .. for each count, one after another."""
    total = int(counts.sum())
    return np.arange(total, dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)


def survey(
    source: Source,
    indices: Sequence[int] | NDArray[np.int64],
    full: bool = True,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    kind: str = "survey",
) -> tuple[Survey, int]:
    """Measure these images of a source, and how many of them were known from before.

    `kind` names the entry of the cache. `progress` is told (done, of) now and then.

    Raises:
        KeyboardInterrupt: what was measured is kept all the same.
    """
    rows = source.rows[np.asarray(indices, dtype=np.int64)]
    marks = stamps(source, rows)
    store = _Store(source, kind)
    old = store.read()
    place = _known(old, marks, full)
    if kind != "survey" and (place < 0).any():  # a look at everything knows them too
        whole = _Store(source, "survey").read()
        there = _known(whole, marks, full)
        old = old.plus(whole.take(there[(place < 0) & (there >= 0)]))
        place = _known(old, marks, full)
    missing = np.flatnonzero(place < 0)
    made: dict[int, Measured] = {}
    last = time.monotonic()
    try:
        for at, measured in measure_all(source, rows[missing], full, workers):
            made[int(missing[at])] = measured
            if progress is not None:
                progress(len(rows) - len(missing) + len(made), len(rows))
            if time.monotonic() - last > _EVERY:
                store.write(_together(old, made, marks))
                last = time.monotonic()
    except KeyboardInterrupt:
        store.write(_together(old, made, marks))
        raise
    numbers = np.array(sorted(made), dtype=np.int64)
    new = _survey([made[i] for i in numbers.tolist()], marks[numbers])
    if made:
        store.write(_kept(old, marks).plus(_lasting(new)))
    place[numbers] = len(old) + np.arange(len(numbers))
    return old.plus(new).take(place), len(rows) - len(missing)


def _known(old: Survey, marks: NDArray[np.uint64], full: bool) -> NDArray[np.int64]:
    """Where each image stands in what was kept, or -1."""
    usable = ~old.has(Flag.HEADER_ONLY) if full else np.ones(len(old), dtype=bool)
    where = np.flatnonzero(usable)
    order = where[np.argsort(old.rows["stamp"][where], kind="stable")]
    if not len(order):
        return np.full(len(marks), -1, dtype=np.int64)
    sorted_ = old.rows["stamp"][order]
    at = np.minimum(np.searchsorted(sorted_, marks, side="right") - 1, len(order) - 1)
    same = (at >= 0) & (sorted_[at] == marks) & (marks != 0)
    return np.where(same, order[at], -1)


def _together(old: Survey, made: dict[int, Measured], marks: NDArray[np.uint64]) -> Survey:
    numbers = sorted(made)
    return old.plus(_lasting(_survey([made[i] for i in numbers], marks[numbers])))


def _kept(old: Survey, marks: NDArray[np.uint64]) -> Survey:
    """What was kept, until most of it is of files that are no more."""
    if len(old) <= 4 * len(marks) + 10_000:
        return old
    return old.take(np.flatnonzero(np.isin(old.rows["stamp"], marks)))


def _lasting(new: Survey) -> Survey:
    """Those that can be known again; a decoder that crashed may have lacked memory only."""
    lasting = (new.rows["stamp"] != 0) & ~new.has(Flag.CRASHED)
    return new.take(np.flatnonzero(lasting))


def _survey(found: Sequence[Measured], marks: NDArray[np.uint64]) -> Survey:
    rows = np.zeros(len(found), dtype=ROW)
    for row, one, mark in zip(rows, found, marks.tolist(), strict=True):
        height, width, channels, kind, format_ = one.header
        row["stamp"], row["height"], row["width"], row["channels"] = mark, height, width, channels
        row["type"], row["format"], row["mode"] = kind.encode(), format_.encode(), one.mode.encode()
        row["flags"], row["digest"], row["look"] = int(one.flags), one.digest, one.look
        row["picture"] = np.frombuffer(one.picture, dtype=np.uint8)
        row["count"] = len(one.stats)
    stats = [one.stats for one in found if len(one.stats)] or [np.zeros((0, COLUMNS))]
    reasons, bands = Names(o.reason for o in found), Names("\t".join(o.bands) for o in found)
    return Survey(rows, np.concatenate(stats), reasons, bands)


class _Store:
    """The entry of a source in the cache; none where the cache lies in the data themselves, which
    must stay as they are.
    """

    def __init__(self, source: Source, kind: str) -> None:
        name = os.path.abspath(os.path.expanduser(source.name))
        self.key = cache.key_of(kind, VERSION, ROW.descr.__repr__(), name)
        self.use = not cache.inside(Path(name))

    def read(self) -> Survey:
        found = cache.read_arrays(self.key) if self.use else None
        try:
            if found is None or found["rows"].dtype != ROW:
                return Survey()
            texts = [
                Names.of(found[f"{n}_block"], found[f"{n}_ends"]) for n in ("reasons", "bands")
            ]
            read = Survey(found["rows"], found["stats"], *texts)
            lengths = {len(read), *(len(text) for text in texts)}
            whole = len(lengths) == 1 and int(read.rows["count"].sum()) == len(read.stats)
            return read if whole else Survey()
        except KeyError:
            return Survey()

    def write(self, table: Survey) -> None:
        if not self.use:
            return
        arrays = {"rows": table.rows, "stats": table.stats}
        for name, text in zip(_TEXTS, (table.reasons, table.bands), strict=True):
            arrays |= {f"{name}_block": text.block, f"{name}_ends": text.ends}
        cache.write_arrays(self.key, arrays)
