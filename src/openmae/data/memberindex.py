"""What is known of the images of an archive, and how it is kept in the cache: under the archive's
place, size and time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmae.data.cache import key_of, read_arrays, write_arrays
from openmae.data.decode import SUFFIXES
from openmae.data.names import Names
from openmae.data.shards import Shard

_VERSION = 1
Arrays = Mapping[str, NDArray[Any]]


class Index(NamedTuple):
    """The images of one archive in its own order.

    Attributes:
        names: cleaned names, no two alike.
        offsets, sizes: (n,) in bytes.
        labels: as text, "" where there is none.
        left_out: further images of samples (masks, thumbnails) that are not counted.
    """

    names: Names
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: Names
    left_out: int


def write_index(kind: str, shard: Shard, index: Index, more: Arrays | None = None) -> None:
    """Keep an index and further arrays (n,); nothing of an archive that no server's word would
    tell from another one, or that has no images.
    """
    if not shard.stamp or not len(index.names):
        return
    arrays: dict[str, NDArray[Any]] = {"offsets": index.offsets, "sizes": index.sizes}
    arrays |= {"names": index.names.block, "name_ends": index.names.ends}
    arrays |= {"labels": index.labels.block, "label_ends": index.labels.ends}
    write_arrays(
        _key(kind, shard), {**arrays, **(more or {}), "left_out": np.array([index.left_out])}
    )


def read_index(
    kind: str, shard: Shard, types: Mapping[str, type] | None = None
) -> tuple[Index, dict[str, NDArray[Any]]] | None:
    """What was kept of this archive, with further arrays of these types; None if it does not fit.

    The bytes of an image are `packed` where that is among the arrays, else its size.
    """
    found = read_arrays(_key(kind, shard)) if shard.stamp else None
    if found is None:
        return None
    try:
        one = [found[k] for k in ("name_ends", "label_ends", "offsets", "sizes")]
        blocks = [found[k] for k in ("names", "labels")]
        more = {name: found[name] for name in types or {}}
        left_out = int(found["left_out"][0])
        count = len(one[0])
        fit = count > 0 and all(a.dtype == np.int64 for a in one)
        fit = fit and all(a.shape == (count,) for a in (*one, *more.values()))
        fit = fit and all(more[name].dtype == type_ for name, type_ in (types or {}).items())
        fit = fit and all(b.dtype == np.uint8 and b.ndim == 1 for b in blocks)
        for ends, block in zip(one, blocks, strict=False):
            fit = fit and ends[-1] == len(block) and bool((np.diff(ends, prepend=0) >= 0).all())
        stops = one[2] + more.get("packed", one[3])
        fit = fit and min(a.min() for a in one) >= 0 and stops.max() <= shard.size
    except (KeyError, IndexError, ValueError, TypeError):
        return None
    if not fit:
        return None
    names, labels = Names.of(blocks[0], one[0]), Names.of(blocks[1], one[1])
    return Index(names, one[2], one[3], labels, left_out), more


def _key(kind: str, shard: Shard) -> str:
    known = " ".join(sorted(SUFFIXES))  # a new format makes members images
    return key_of(kind, _VERSION, shard.where, shard.size, shard.stamp, known)
