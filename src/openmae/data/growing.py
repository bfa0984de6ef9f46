"""Images that grow during a run (progressive resolution): the size is a function of the position
alone, like everything random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.transforms import TrainTransform
from openmae.data.values import Pixels


@dataclass(frozen=True)
class GrowingTransform:
    """`transform` at another size for each part of the run; its draws stay as they are, so that the
    crop of a position is the same part of the image at any size.

    `stages` are (first step, (height, width) in pixels), in order, the first at step 0.
    """

    transform: TrainTransform
    stages: Sequence[tuple[int, tuple[int, int]]]
    global_batch: int

    def draws(self, position: int, rows: int) -> NDArray[np.float64]:
        """The randomness of the transform, and in one more column the number of the stage."""
        steps = np.arange(position, position + rows) // self.global_batch
        starts = [start for start, _ in self.stages]
        stage = np.searchsorted(starts, steps, side="right") - 1
        return np.column_stack([self.transform.draws(position, rows), stage])

    def __call__(self, image: Pixels, draws: NDArray[np.float64]) -> Tensor:
        """The image of a row of `draws`, uint8 (C, height, width) of its stage."""
        size = self.stages[int(draws[-1])][1]
        return replace(self.transform, size=size)(image, draws[:-1])
