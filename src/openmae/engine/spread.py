"""Images that are only read, spread over ranks: rank r takes every size-th batch, and every rank
gets the results of all of them, in the order of one process.

Batches are those of one process, so the results are too. Every rank then goes on alike with the
same numbers, and the first one writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openmae.engine.distributed import World


@dataclass
class Part:
    """What a network says of a batch: values (B, D) float32, or None without a readable image;
    labels and paths of its B images; (path, reason) of what could not be read.
    """

    values: NDArray[np.float32] | None = None
    labels: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)


Gather = Callable[[Iterable[Part]], Iterable[Part]]
"""The parts of this rank -> those of all ranks, in order."""


def own_batches(world: World, total: int) -> range:
    """The numbers of this rank, of batches 0 ... total - 1."""
    return range(world.rank, total, world.size)


def in_order(world: World, total: int) -> Gather:
    """A gatherer of the parts of `total` batches, a round of one batch a rank at a time, so that
    no rank waits with more than that.
    """

    def gather(parts: Iterable[Part]) -> Iterator[Part]:
        if world.size == 1:
            yield from parts
            return
        mine = iter(parts)
        for _ in range(-(-total // world.size)):
            yield from _exchange(world, next(mine, Part()))

    return gather


def _exchange(world: World, part: Part) -> list[Part]:
    """The parts of all ranks, in their order. Numbers travel as they are, words as JSON."""
    values = np.zeros((0, 0), np.float32) if part.values is None else part.values
    labels = np.asarray(part.labels)
    told = world.gather(
        [list(values.shape), labels.tolist(), str(labels.dtype), part.paths, part.bad]
    )
    rows = world.gather_rows(torch.from_numpy(np.ascontiguousarray(values).reshape(-1)))
    return [
        Part(
            row.numpy().reshape(shape) if shape[0] else None,
            list(np.array(numbers, dtype)),
            paths,
            [(path, reason) for path, reason in bad],
        )
        for row, (shape, numbers, dtype, paths, bad) in zip(rows, told, strict=True)
    ]
