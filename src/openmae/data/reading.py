"""Which image each loader process reads at the moment, told to the process that waits for it."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

_MOST = 257  # loader processes, and this one


class Reading:
    """A table of (step, row of the source) for each process, in memory that forked ones share. A
    process that is started anew has a table of its own, and then nothing is told.
    """

    def __init__(self) -> None:
        self._table = _shared()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, _: dict[str, Any]) -> None:
        self._table = _shared()

    @contextmanager
    def of(self, step: int) -> Iterator[Callable[[int], None]]:
        """While a batch is made; what it gives notes the row that is read."""
        worker = get_worker_info()
        mine = self._table[0 if worker is None else worker.id + 1]

        def reads(row: int) -> None:
            mine[1] = row

        mine[:] = step, -1
        yield reads
        mine[:] = -1

    def row(self, step: int) -> int | None:
        """The row that is read for a step, or else for any; None where nothing is read."""
        steps, rows = self._table.T
        for found in (rows[(steps == step) & (rows >= 0)], rows[rows >= 0]):
            if len(found):
                return int(found[0])
        return None


def _shared() -> NDArray[np.int64]:
    table = np.frombuffer(mmap.mmap(-1, _MOST * 16), dtype=np.int64).reshape(_MOST, 2)
    table[:] = -1
    return table
