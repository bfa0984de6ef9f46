"""What a target is: what is predicted for a hidden patch, and its loss.

B batch, M patches, L all patches of an image, W values of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn


class Target(nn.Module):
    """Base of the targets. What a target knows beyond its arguments is in its buffers, or in
    parameters that are not trained, so that a checkpoint holds it.

    Args:
        patch: height and width of a patch in pixels.
        in_chans: channels of the images.
        width: numbers that are predicted for a patch.
    """

    pictures: ClassVar[bool] = False
    """Whether predictions are pixels, which can be shown."""

    def __init__(self, patch: tuple[int, int], in_chans: int, width: int) -> None:
        super().__init__()
        self.patch, self.in_chans, self.width = patch, in_chans, width

    def values(self, patches: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        """What is to be predicted for some patches.

        Args:
            patches: their normalised pixels (B * masks, M, p*q*C), channel last.
            images: the whole normalised images (B, C, H, W).
            ids: which patches these are (B * masks, M), row-major; the masks of an image follow
                each other.

        Returns:
            (B * masks, M, ...), as `loss` takes it.
        """
        raise NotImplementedError

    def loss(self, pred: Tensor, values: Tensor) -> Tensor:
        """Predictions (B, M, W) and what `values` gave -> the loss of each patch (B, M), in at
        least single precision also under autocast.
        """
        return (pred.to(values.dtype) - values).square().mean(dim=-1)

    def after_step(self, encoder: nn.Module, rand: Any, skipped: Tensor) -> None:
        """As `openmae.methods.base.Base.after_step`, with the encoder that is trained."""

    @classmethod
    def arguments_from(cls, path: str) -> Mapping[str, Any]:
        """For a target made from a file: the keyword arguments that it makes of it, no weights."""
        return {}

    def load_parts(self, path: str) -> None:
        """Copy the weights of that file; a continued run has them in its checkpoint."""
