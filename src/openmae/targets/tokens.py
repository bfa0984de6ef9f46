"""Discrete tokens as a target (BEiT): the id of the code that a tokenizer gives a patch; the loss
is the cross-entropy.

B batch, M masked patches, V codes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from openmae.errors import UsageError
from openmae.models.codebook import Codebook
from openmae.targets.base import Target


class Tokens(Target):
    """The ids of the nearest codes of a frozen tokenizer, V logits a patch.

    Args:
        patch: height and width of a patch in pixels.
        in_chans: channels of the images.
        codes: V, the size of the vocabulary.
        kind: "kmeans": nearest code of the normalised pixels; "vqvae": of learned features.
        width: numbers of a code, of a vqvae.
        hidden: width of a vqvae's layers.

    Raises:
        UsageError: an unknown kind, or fewer than two codes.
    """

    def __init__(
        self,
        patch: tuple[int, int],
        in_chans: int,
        codes: int = 512,
        kind: str = "kmeans",
        width: int = 32,
        hidden: int = 128,
    ) -> None:
        super().__init__(patch, in_chans, codes)
        values = patch[0] * patch[1] * in_chans
        try:
            self.codebook = Codebook(values, codes, kind, width, hidden).requires_grad_(False)
        except ValueError as error:
            raise UsageError(f"target tokens: {error}") from None

    def values(self, patches: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        return self.codebook.ids(patches)

    def loss(self, pred: Tensor, values: Tensor) -> Tensor:
        logits = pred if pred.dtype.itemsize >= 4 else pred.float()
        return F.cross_entropy(logits.movedim(-1, 1), values, reduction="none")
