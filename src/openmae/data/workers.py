"""Images measured in several processes. A decoder that crashes ends its process, not the look."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from numpy.typing import NDArray

from openmae.data.measure import Measured, measure
from openmae.data.source import Source
from openmae.data.traits import Flag

_CHUNK = 16  # images of one errand
_CRASHED = Measured(flags=Flag.CRASHED, reason="its decoder crashed, or took all memory")
_source: Source | None = None  # of a worker


def default_workers() -> int:
    """One for each core that this process may use."""
    mine = getattr(os, "sched_getaffinity", None)
    return max(1, len(mine(0)) if mine else os.cpu_count() or 1)


def measure_all(
    source: Source, rows: NDArray[np.int64], full: bool, workers: int
) -> Iterator[tuple[int, Measured]]:
    """(place in `rows`, what was measured), as they come; in this process without workers."""
    if not workers:
        for at, row in enumerate(rows.tolist()):
            yield at, measure(source, row, full)
        return
    starts = range(0, len(rows), _CHUNK)
    errands = [[(at, int(rows[at])) for at in range(s, min(s + _CHUNK, len(rows)))] for s in starts]
    while errands:
        lost: list[list[tuple[int, int]]] = []
        yield from _pool(source, errands, full, min(workers, len(errands)), lost)
        # a process died: what it and the others had is done again, one image at a time and each
        # in a process of its own, so that the one to blame is known
        for item in (item for errand in lost for item in errand):
            again: list[list[tuple[int, int]]] = []
            yield from _pool(source, [[item]], full, 1, again)
            if again:
                yield item[0], _CRASHED


def _pool(
    source: Source,
    errands: list[list[tuple[int, int]]],
    full: bool,
    workers: int,
    lost: list[list[tuple[int, int]]],
) -> Iterator[tuple[int, Measured]]:
    """Run errands, which leave the list as they are handed out; `lost` gets those that died."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(source,))
    pending: dict[Future[list[Measured]], list[tuple[int, int]]] = {}
    try:
        while (errands and not lost) or pending:
            while errands and not lost and len(pending) < 2 * workers:
                errand = errands.pop(0)
                try:
                    pending[pool.submit(_measure, [row for _, row in errand], full)] = errand
                except BrokenProcessPool:
                    lost.append(errand)
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                errand = pending.pop(future)
                try:
                    measured = future.result()
                except BrokenProcessPool:
                    lost.append(errand)
                    continue
                yield from zip((at for at, _ in errand), measured, strict=True)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(source: Source) -> None:
    global _source
    _source = source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends them
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _measure(rows: list[int], full: bool) -> list[Measured]:
    assert _source is not None
    return [measure(_source, row, full) for row in rows]
