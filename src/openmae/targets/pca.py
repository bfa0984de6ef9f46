"""Principal components of the patches as a target (the paper's Table 1d): the largest 96
coefficients of a patch, in the basis of the training images.

W = p*q*C values of a patch, D components.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmae.errors import UsageError
from openmae.targets.base import Target

COMPONENTS = 96
"""The paper's number of coefficients."""


class PCA(Target):
    """The coefficients of the (channel-normalised) pixels of a patch, minus their mean. The basis
    is orthonormal and not whitened: the loss is the mean squared error of the D coefficients.

    Args:
        patch: height and width of a patch in pixels.
        in_chans: channels of the images.
        components: D; the paper's 96, or all W of a smaller patch.

    Raises:
        UsageError: more components than values of a patch.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, patch: tuple[int, int], in_chans: int, components: int = 0) -> None:
        values = patch[0] * patch[1] * in_chans
        count = components or min(COMPONENTS, values)
        if not 0 < count <= values:
            raise UsageError(
                f"target pca with {components} components: a patch has {values} values"
            )
        super().__init__(patch, in_chans, count)
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("basis", torch.eye(values)[:, :count].clone())

    def fit(self, patches: Tensor) -> None:
        """Take the basis from the normalised pixels of some patches (N, W)."""
        mean, basis = principal(patches, self.width)
        self.mean.copy_(mean)
        self.basis.copy_(basis)

    def values(self, patches: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        kind = torch.promote_types(patches.dtype, torch.float32)
        where = "cpu" if patches.is_meta else patches.device.type  # meta: sizes are counted
        with torch.autocast(where, enabled=False):
            return (patches.to(kind) - self.mean.to(kind)) @ self.basis.to(kind)


def principal(patches: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (W,) and the `count` first principal directions (W, count) of patches (N, W), in
    double precision. The largest entry of each direction is positive, so that the sign is fixed.

    Raises:
        ValueError: fewer than two patches, or values that are not finite.
    """
    x = patches.detach().to("cpu", torch.float64)
    if len(x) < 2 or not x.isfinite().all():
        raise ValueError("principal components need at least two patches of finite values")
    mean = x.mean(dim=0)
    centred = x - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred / (len(x) - 1))  # ascending
    basis = vectors.flip(1)[:, :count]
    largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    return mean, basis * torch.where(largest < 0, -1.0, 1.0)
