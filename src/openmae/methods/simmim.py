"""SimMIM (Xie et al. 2022, arXiv 2111.09886): pixels of hidden units of patches, by a linear head,
absolute error.

B batch, M hidden patches.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from openmae.errors import UsageError
from openmae.methods.masked import Masked
from openmae.models.masking import Mask
from openmae.targets import NormPixels, Pixels


class AbsolutePixels(Pixels):
    """Pixels; the loss of a patch is the mean absolute error of its values."""

    def loss(self, pred: Tensor, values: Tensor) -> Tensor:
        return (pred.to(values.dtype) - values).abs().mean(dim=-1)


class AbsoluteNormPixels(AbsolutePixels, NormPixels):
    """The same of pixels that are normalised patch by patch."""


_ABSOLUTE = {"pixels": AbsolutePixels, "norm_pixels": AbsoluteNormPixels}


class SimMIM(Masked):
    """The defaults are the paper's for patches of 16 pixels. Not built: the relative position bias
    (positions are the frozen sin-cos ones instead) and stochastic depth.

    Args:
        mask, mask_ratio: "unit" and 0.6.
        mask_unit: side of a unit in patches; 2, the paper's 32 pixels of patches of 16.
        target: "pixels" as published, or "norm_pixels".
        more: as of `Masked`.

    Raises:
        UsageError: another target, or as of `Masked`.
    """

    def __init__(
        self,
        mask: str | Mask = "unit",
        mask_ratio: float = 0.6,
        mask_unit: int = 2,
        target: str = "pixels",
        **more: Any,
    ) -> None:
        super().__init__(mask, mask_ratio, mask_unit, target, **more)

    def _aim(self, name: str, **arguments: Any) -> None:
        super()._aim(name, **arguments)
        if name not in _ABSOLUTE:
            raise UsageError(
                f"target {name}: method simmim predicts pixels or norm_pixels. Use one of them, or"
                " method mae with mask-tokens encoder and decoder linear"
            )
        self.predicts = _ABSOLUTE[name](self.encoder.patch, self.encoder.in_chans)
