"""Pixels, and pixels normalised patch by patch (section 3 and Table 1d of the paper).

B batch, M patches, W = p*q*C values of a patch, channel last.
"""

from __future__ import annotations

from torch import Tensor

from openmae.models.patches import patch_statistics


class Pixels:
    """The (channel-normalised) pixels of a patch; the loss of a patch is the mean squared error of
    its values.
    """

    def width(self, patch: tuple[int, int], in_chans: int) -> int:
        """Values predicted for a patch."""
        return patch[0] * patch[1] * in_chans

    def values(self, patches: Tensor) -> Tensor:
        """Patches (B, M, W) -> what is to be predicted, (B, M, W)."""
        return patches

    def loss(self, pred: Tensor, values: Tensor) -> Tensor:
        """Loss of each patch (B, M), in at least single precision also under autocast."""
        return (pred.to(values.dtype) - values).square().mean(dim=-1)


class NormPixels(Pixels):
    """Each patch minus its mean, over its standard deviation: unbiased variance plus 1e-6, over all
    p*q*C values.
    """

    def values(self, patches: Tensor) -> Tensor:
        mean, variance = patch_statistics(patches)
        return (patches - mean) / (variance + 1e-6).sqrt()
