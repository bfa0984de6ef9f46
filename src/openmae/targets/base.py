"""What a target is: what is predicted for a hidden patch, and its loss.

B batch, M patches, L all patches of an image, W values of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from openmae.models.encoder import Encoder


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

    source: ClassVar[str] = ""
    """Of a target that is made from a trained model: the argument that names it, as `openmae.load`
    takes it; else empty."""

    def __init__(self, patch: tuple[int, int], in_chans: int, width: int) -> None:
        super().__init__()
        self.patch, self.in_chans, self.width = patch, in_chans, width

    @classmethod
    def of(cls, encoder: Encoder, **arguments: Any) -> Target:
        """The target of the patches that an encoder sees; it has no weights yet (see `begin`)."""
        return cls(encoder.patch, encoder.in_chans, **arguments)

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

    def notes(self, values: Tensor) -> dict[str, Tensor]:
        """What is logged of the values of a batch, 0-dim each."""
        return {}

    def begin(self, encoder: Encoder) -> None:
        """The encoder of a new run has the weights that it begins with."""

    def after_step(self, encoder: Encoder, rand: Any, skipped: Tensor) -> None:
        """As `openmae.methods.base.Base.after_step`, with the encoder that is trained."""

    def blocks(self) -> list[nn.Module]:
        """Further units of per-block compile and sharding."""
        return []

    @classmethod
    def arguments_from(cls, model: nn.Module) -> Mapping[str, Any]:
        """With a `source`: the keyword arguments that it makes of that model, no weights."""
        return {}

    def load_parts(self, model: nn.Module) -> None:
        """Copy the weights of that model; a continued run has them in its checkpoint."""
