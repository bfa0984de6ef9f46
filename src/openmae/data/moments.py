"""Mean and deviation of samples, from what was measured of their files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openmae.data.measure import Columns, statistics
from openmae.data.source import Source
from openmae.data.values import Decoding
from openmae.errors import DataError


def of_sample(
    source: Source, index: int, row: np.void, stats: NDArray[np.float64], reads: Decoding
) -> NDArray[np.float64]:
    """Number, mean and sum of squares of each channel on the unit scale, (channels, 3).

    Raises:
        DataError: `reads` refuses the image.
    """
    have, kind = int(row["channels"]), np.dtype(row["type"].decode())
    reads(np.zeros((1, 1, have), dtype=kind))  # refuses what it would refuse of the image
    wanted = list(reads.bands or range(have))
    if reads.channels == 1 and len(wanted) in (3, 4):
        if reads.bands:  # gray of other bands than the first three: rare, and read again
            stats = statistics(source.raw(index)[..., wanted])
        chosen = stats[-1:]
    else:
        chosen = stats[wanted]
        if len(chosen) == 1:
            chosen = chosen.repeat(reads.channels or 1, axis=0)
        chosen = chosen[: reads.channels]
    if not chosen[:, Columns.COUNT].any():
        raise DataError("no value is a number")
    low, high = (0.0, 255.0) if kind in (np.uint8, np.bool_) else reads.value_range or (0.0, 1.0)
    count, missing = chosen[:, Columns.COUNT], chosen[:, Columns.MISSING]
    mean = (chosen[:, Columns.MEAN] - low) / (high - low)
    squares = chosen[:, Columns.SQUARES] / (high - low) ** 2
    # what is no number is read as the lower end, so it counts as zero
    total = count + missing
    squares = squares + mean**2 * count * missing / total
    return np.stack([total, mean * count / total, squares], axis=1)


def moments(parts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each channel, from number, mean and sum of squared deviations of parts,
    (N, channels, 3).
    """
    count, mean, squares = parts[..., 0], parts[..., 1], parts[..., 2]
    total = count.sum(axis=0)
    whole = (count * mean).sum(axis=0) / total
    return whole, (squares + count * (mean - whole) ** 2).sum(axis=0) / total
