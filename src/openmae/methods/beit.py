"""BEiT (Bao et al. 2021, arXiv 2106.08254): tokens of hidden blocks, by a linear head,
cross-entropy.
"""

from __future__ import annotations

from typing import Any

from openmae.methods.masked import Masked
from openmae.models.masking import Mask


class BEiT(Masked):
    """The defaults are the paper's. Not built: its dVAE, whose tokens see the whole image (ours are
    of a patch by itself, `openmae.methods.tokenizer`), the relative position bias (positions are
    the frozen sin-cos ones instead), layer scale and stochastic depth.

    Args:
        mask, mask_ratio: "block" and 0.4.
        mask_unit: as of `MAE`, for mask "unit".
        target: "tokens" as published, or another of `openmae.targets.TARGETS`.
        more: as of `Masked`; `target_args` has those of `openmae.targets.tokens.Tokens`.
    """

    def __init__(
        self,
        mask: str | Mask = "block",
        mask_ratio: float = 0.4,
        mask_unit: int = 2,
        target: str = "tokens",
        **more: Any,
    ) -> None:
        super().__init__(mask, mask_ratio, mask_unit, target, **more)
