"""MaskFeat (Wei et al. 2022, arXiv 2112.09133): histograms of oriented gradients of hidden blocks,
by a linear head, squared error.
"""

from __future__ import annotations

from typing import Any

from openmae.methods.masked import Masked
from openmae.models.masking import Mask


class MaskFeat(Masked):
    """The defaults are the paper's for images. Not built: the relative position bias (positions
    are the frozen sin-cos ones instead).

    Args:
        mask, mask_ratio: "block" and 0.4.
        mask_unit: as of `MAE`, for mask "unit".
        target: "hog" as published, or another of `openmae.targets.TARGETS`.
        more: as of `Masked`; `target_args` has `cell` and `bins`.
    """

    def __init__(
        self,
        mask: str | Mask = "block",
        mask_ratio: float = 0.4,
        mask_unit: int = 2,
        target: str = "hog",
        **more: Any,
    ) -> None:
        super().__init__(mask, mask_ratio, mask_unit, target, **more)
