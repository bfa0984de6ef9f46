"""All randomness is a pure function of (seed, purpose, global position). A leaf: every part of the
house may import it.

A position counts images since the start of the run: position = step * global_batch + slot. Nothing
here has state, so nothing needs saving, and neither the number of workers, of micro-batches nor of
ranks can change what a run sees. Only the raw stream of Philox is used, which numpy keeps stable
across versions (NEP 19); its distributions are not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 4  # Philox4x64 makes four 64-bit words for each value of its counter


def key(seed: int, purpose: str) -> int:
    """The 128-bit Philox key of a purpose."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest(), "little"
    )


def words(seed: int, purpose: str, position: int, rows: int, width: int) -> NDArray[np.uint64]:
    """Raw 64-bit words, shape (rows, width); row r depends on `position + r` and `width` alone."""
    blocks = -(-width // _BLOCK)
    counter = np.array([0, 0, 0, 0], dtype=np.uint64)
    start = position * blocks
    for i in range(4):
        counter[i] = (start >> (64 * i)) & 0xFFFFFFFFFFFFFFFF
    bits = np.random.Philox(key=key(seed, purpose), counter=counter)
    raw: NDArray[np.uint64] = bits.random_raw(rows * blocks * _BLOCK)
    return raw.reshape(rows, blocks * _BLOCK)[:, :width]


def uniforms(
    seed: int, purpose: str, position: int, width: int, rows: int = 1
) -> NDArray[np.float64]:
    """Numbers in [0, 1) with 53 random bits, (rows, width); row r belongs to `position + r`."""
    raw = words(seed, purpose, position, rows, width) >> np.uint64(11)
    return raw.astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The order of the data in one epoch: the ranks of n random words."""
    raw = words(seed, "order", epoch, 1, n)[0]
    return np.argsort(raw, kind="stable")


def torch_seed(seed: int, purpose: str, position: int) -> int:
    """A seed for torch's global generator, for third-party layers that know no other source
    (dropout, drop path).
    """
    return int(words(seed, purpose, position, 1, 1)[0, 0] >> np.uint64(1))


@dataclass(frozen=True)
class Rand:
    """The randomness of one step for the rows of a batch: rows `first .. first + rows` of the run.

    `progress` is the share of the run that is done, in [0, 1].
    """

    seed: int
    step: int
    progress: float
    first: int
    rows: int

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Float32 noise in [0, 1), made on the CPU; `shape[0]` must be the rows of this batch."""
        if shape[0] != self.rows:
            raise ValueError(
                f"uniform: the first size of {shape} is not the {self.rows} rows of this batch"
            )
        width = int(np.prod(shape[1:], dtype=np.int64))
        noise = uniforms(self.seed, purpose, self.first, width, self.rows)
        below_one = np.float32(1 - 2**-24)  # rounding to float32 must not reach 1
        return torch.from_numpy(np.minimum(noise.astype(np.float32), below_one)).reshape(shape)

    def seed_of(self, purpose: str) -> int:
        """A seed that belongs to the step, the same for all its rows."""
        return torch_seed(self.seed, purpose, self.step)

    def slice(self, start: int, stop: int) -> Rand:
        """The randomness of rows start .. stop of this batch (a micro-batch)."""
        return Rand(self.seed, self.step, self.progress, self.first + start, stop - start)
