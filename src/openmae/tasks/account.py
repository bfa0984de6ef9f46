"""What a training step of a method costs, in operations and bytes, read from its sizes."""

from __future__ import annotations

from typing import Any

from torch import nn

from openmae.engine.flops import ClassifierSize, MAESize, Stack
from openmae.engine.memory import Need, image_bytes
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.models.crossdecoder import CrossDecoder
from openmae.models.encoder import Encoder
from openmae.models.masking import num_kept


def size_of(method: nn.Module) -> MAESize | ClassifierSize | None:
    """The sizes that decide the cost of a step, for one image; also of a method on the meta
    device. None for a method that this account does not know.
    """
    if isinstance(method, Classifier):
        encoder = method.encoder
        return ClassifierSize(
            encoder=_encoder(encoder),
            patches=encoder.vit.patch_embed.num_patches,
            prefix=encoder.num_prefix_tokens,
            values=_values(encoder),
            classes=len(method.classes),
            blocks=method.arguments["blocks"],
        )
    if not isinstance(method, MAE):
        return None
    encoder, decoder = method.encoder, method.decoder
    patches = encoder.grid[0] * encoder.grid[1]
    mask = method.mask if isinstance(method.mask, str) else "custom"
    blocks: Any = decoder.blocks
    hidden = blocks[0].mlp.fc1.out_features if len(blocks) else 0
    kept = num_kept(patches, method.mask_ratio, mask) * len(encoder.groups)
    patches *= len(encoder.groups)
    crossed = isinstance(decoder, CrossDecoder)
    return MAESize(
        encoder=_encoder(encoder),
        decoder=Stack(decoder.pred.in_features, len(blocks), hidden),
        patches=patches,
        kept=kept,
        prefix=encoder.num_prefix_tokens,
        values=_values(encoder),
        out=decoder.pred.out_features,
        cross=max(1, round((patches - kept) * method.predict)) if crossed else None,
        masks=method.masks,
        inside=method.mask_token is not None,
        embedded=method.arguments["decoder"] != "linear",
    )


def _encoder(encoder: Encoder) -> Stack:
    blocks: Any = encoder.vit.blocks
    return Stack(encoder.vit.embed_dim, len(blocks), blocks[0].mlp.fc1.out_features)


def _values(encoder: Encoder) -> int:
    every = encoder.patch[0] * encoder.patch[1] * encoder.in_chans
    return every // len(encoder.groups)  # of a token, in the mean


def need_of(method: nn.Module, precision: str, ema: bool, again: bool = False) -> Need | None:
    """Bytes of training a method: weights and, of those that are trained, gradients and the two
    moments of AdamW, all fp32; averages where they are kept. `again`: activations are recomputed.
    None where they are not known.
    """
    size = size_of(method)
    if size is None:
        return None
    weights = sum(p.numel() * p.element_size() for p in method.parameters())
    trained = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    averages = weights if ema else 0
    return Need(weights, trained, 2 * trained, averages, image_bytes(size, precision, again))
