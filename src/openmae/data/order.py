"""Which image stands at a position of the endless order of a run: a pure function.

N images, draws of an epoch: N, whatever the weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openmae.randomness import permutation, uniforms, words


class Order:
    """One endless stream of epochs of N draws. Each of them is a permutation, or, with weights, a
    sample in which image i occurs N w_i / sum(w) times, rounded up or down.

    Args:
        seed: of the run.
        length: N, the number of images.
        weights: (N,) of the images, at least 0 and not all 0; None for one permutation an epoch.
        repeats: positions in a row that share an image (repeated augmentation, Hoffer et al. 2020):
            each of them has a crop of its own, and the file is decoded once.
    """

    def __init__(
        self, seed: int, length: int, weights: NDArray[np.float64] | None = None, repeats: int = 1
    ) -> None:
        self.seed, self.length, self.repeats = seed, length, repeats
        self.weights = weights
        self._kept: tuple[int, NDArray[np.int64]] | None = None  # the epoch in use, and its draws

    def __call__(self, position: int) -> int:
        """The image at a position."""
        epoch, offset = divmod(position // self.repeats, self.length)
        if self._kept is None or self._kept[0] != epoch:
            self._kept = (epoch, self._draws(epoch))
        return int(self._kept[1][offset])

    def _draws(self, epoch: int) -> NDArray[np.int64]:
        if self.weights is None:
            return permutation(self.seed, epoch, self.length)
        return weighted(self.seed, epoch, self.weights)


def weighted(seed: int, epoch: int, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """N draws of an epoch by systematic sampling: no image comes a whole draw above or below its
    share, nor do the images of one weight together, such as a class that is balanced.
    """
    length = len(weights)
    first = permutation(seed, epoch, length)
    first = first[np.argsort(weights[first], kind="stable")]  # one weight side by side
    edges = np.cumsum(weights[first])
    start = uniforms(seed, "weighted-start", epoch, 1)[0, 0]
    at = (np.arange(length) + start) * (edges[-1] / length)
    drawn = first[np.minimum(np.searchsorted(edges, at, side="right"), length - 1)]
    # another permutation, else the copies of an image stand in a row
    return drawn[np.argsort(words(seed, "weighted-order", epoch, 1, length)[0], kind="stable")]
