"""What the methods share that hide patches inside the encoder: it sees every position, the hidden
ones as one learned token, and a linear head reads each hidden position's own token.

That is `MAE` with mask tokens in the encoder and the linear decoder, and nothing else: masks,
pruned training path, evaluation and files are MAE's.
"""

from __future__ import annotations

from typing import Any

from openmae.errors import UsageError
from openmae.methods.mae import MAE
from openmae.models.masking import Mask


class Masked(MAE):
    """MAE with other defaults; its further arguments are taken too.

    Args:
        mask, mask_ratio, mask_unit, target: as of `MAE`.
        decoder: "linear" as published; "mlp" and "self" as of `MAE`.
        mask_tokens: "encoder", and nothing else.

    Raises:
        UsageError: mask tokens in the decoder, or as of `MAE`.
    """

    def __init__(
        self,
        mask: str | Mask = "random",
        mask_ratio: float = 0.6,
        mask_unit: int = 2,
        target: str = "pixels",
        decoder: str = "linear",
        mask_tokens: str = "encoder",
        **more: Any,
    ) -> None:
        if mask_tokens != "encoder":
            raise UsageError(
                f"mask_tokens {mask_tokens!r}: this method has them in the encoder. Leave it out,"
                " or use method mae"
            )
        super().__init__(
            mask=mask,
            mask_ratio=mask_ratio,
            mask_unit=mask_unit,
            target=target,
            decoder=decoder,
            mask_tokens=mask_tokens,
            **more,
        )
