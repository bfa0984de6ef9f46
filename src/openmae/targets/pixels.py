"""Pixels, and pixels normalised patch by patch (section 3 and Table 1d of the paper).

B batch, M patches, W = p*q*C values of a patch, channel last.
"""

from __future__ import annotations

from torch import Tensor

from openmae.models.patches import patch_statistics
from openmae.targets.base import Target


class Pixels(Target):
    """The (channel-normalised) pixels of a patch; the loss of a patch is the mean squared error of
    its values.
    """

    pictures = True

    def __init__(self, patch: tuple[int, int], in_chans: int) -> None:
        super().__init__(patch, in_chans, patch[0] * patch[1] * in_chans)

    def values(self, patches: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        return patches


class NormPixels(Pixels):
    """Each patch minus its mean, over its standard deviation: unbiased variance plus 1e-6, over all
    p*q*C values.
    """

    def values(self, patches: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        mean, variance = patch_statistics(patches)
        return (patches - mean) / (variance + 1e-6).sqrt()
