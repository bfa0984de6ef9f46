"""The other implementations, built to the sizes of one of our models and with its weights.

Each is a `Peer`: a loss of images, and the settings that tuning may choose from. A package that is
not installed is no error: `build` says why it is absent.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from reference import Reference
from torch import Tensor, nn

from openmae.methods.mae import MAE
from openmae.weights.writers_huggingface import write_hugging_face
from openmae.weights.writers_official import official_names

Loss = Callable[[Tensor, Tensor | None], Tensor]


@dataclass
class Peer:
    """One implementation.

    Attributes:
        loss: (images, noise or None) -> scalar; the patches of smallest noise are kept.
        attention: name -> a function that switches the module to it.
        shipped: settings as its own training script has them.
        formula: (prediction (B, L, W), images, mask (B, L)) -> loss, for one whose weights cannot
            be ours.
        note: what must be said beside its numbers.
    """

    name: str
    module: nn.Module
    loss: Loss
    attention: dict[str, Callable[[], None]] = field(default_factory=dict)
    shipped: dict[str, str] = field(default_factory=dict)
    formula: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    note: str = ""


def build(name: str, model: MAE, device: torch.device) -> Peer | str:
    """A peer on the device with the weights of `model`; or the reason why there is none."""
    try:
        peer = PEERS[name](model)
    except ImportError as error:
        return f"not installed ({error})"
    peer.module.to(device).train()
    return peer


def transformers(model: MAE) -> Peer:
    """`ViTMAEForPreTraining`, loaded by itself from a folder that we write."""
    from transformers import ViTMAEForPreTraining
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        write_hugging_face(model, Path(folder) / "model")
        other = ViTMAEForPreTraining.from_pretrained(Path(folder) / "model")
    for parameter in (other.vit.embeddings.position_embeddings, other.decoder.decoder_pos_embed):
        parameter.requires_grad_(False)  # as its class makes them; loading a folder loses it
    own = other.config._attn_implementation
    return Peer(
        name="transformers",
        module=other,
        loss=lambda images, noise: other(images, noise=noise).loss,
        attention={a: partial(other.set_attn_implementation, a) for a in ("sdpa", "eager")},
        # its Trainer's optimizer is the fused AdamW, and it does not read the loss at every step
        shipped={"attention": own, "optimizer": "fused"},
    )


class _LightlyMAE(nn.Module):
    """The modules of lightly, joined as its documentation joins them."""

    def __init__(self, model: MAE) -> None:
        super().__init__()
        from lightly.models import utils
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

        self.utils, encoder, decoder = utils, model.encoder, model.decoder
        self.patch, self.ratio = encoder.patch[0], model.mask_ratio
        self.normalise = model.target == "norm_pixels"
        self.backbone = MaskedVisionTransformerTIMM(
            vit=copy.deepcopy(encoder.vit),
            weight_initialization="skip",
            pos_embed_initialization="skip",
        )
        with warnings.catch_warnings():  # lightly renames it in 1.7
            warnings.simplefilter("ignore")
            self.decoder = MAEDecoderTIMM(
                num_patches=encoder.grid[0] * encoder.grid[1],
                patch_size=self.patch,
                in_chans=encoder.in_chans,
                embed_dim=encoder.vit.embed_dim,
                decoder_embed_dim=decoder.embed.out_features,
                decoder_depth=len(decoder.blocks),
                decoder_num_heads=decoder.blocks[0].attn.num_heads,  # type: ignore[union-attr]
            )
        names = official_names(model).items()
        own = {n: t for n, t in names if n.startswith("decoder_") or n == "mask_token"}
        self.decoder.load_state_dict(own, strict=True)

    def ids(self, images: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens that are kept and hidden; the class token is number 0 and always kept."""
        size = (len(images), self.backbone.sequence_length)
        if noise is None:
            return self.utils.random_token_mask(size, self.ratio, device=images.device)
        order = torch.cat([noise.new_full((len(noise), 1), -1), noise], dim=1).argsort(dim=1)
        kept = int(noise.shape[1] * (1 - self.ratio)) + 1
        return order[:, :kept], order[:, kept:]

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        utils, decoder = self.utils, self.decoder
        keep, hidden = self.ids(images, noise)
        latent = decoder.embed(self.backbone.encode(images=images, idx_keep=keep))
        size = (len(images), self.backbone.sequence_length)
        tokens = utils.repeat_token(decoder.mask_token, size)
        tokens = utils.set_at_index(tokens, keep, latent.type_as(tokens))
        pred = decoder.predict(utils.get_at_index(decoder.decode(tokens), hidden))
        target = utils.get_at_index(utils.patchify(images, self.patch), hidden - 1)
        if self.normalise:
            target = utils.normalize_mean_var(target)
        return nn.functional.mse_loss(pred, target)


def lightly(model: MAE) -> Peer:
    """`MaskedVisionTransformerTIMM` and `MAEDecoderTIMM`."""
    other = _LightlyMAE(model)
    return Peer(
        name="lightly",
        module=other,
        loss=other,
        attention={"sdpa": partial(_timm, other, True), "eager": partial(_timm, other, False)},
        shipped={"attention": "sdpa", "optimizer": "plain"},
    )


def _timm(module: nn.Module, fused: bool) -> None:
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused  # type: ignore[assignment]


def stable_pretraining(model: MAE) -> Peer:
    """`stable_pretraining.methods.MAE`. Its decoder has no class token and projects mask tokens
    apart from visible ones, so the decoder's weights are its own.
    """
    from stable_pretraining import methods

    decoder, chans = model.decoder, model.encoder.in_chans

    def formula(pred: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        # its patches have the channel first
        pred = pred.unflatten(-1, (-1, chans)).transpose(-1, -2).flatten(-2)
        return other.loss_fn(pred, images, mask)

    other = methods.MAE(
        copy.deepcopy(model.encoder.vit),
        decoder_embed_dim=decoder.embed.out_features,
        decoder_depth=len(decoder.blocks),
        decoder_num_heads=decoder.blocks[0].attn.num_heads,  # type: ignore[union-attr]
        mask_ratio=model.mask_ratio,
        norm_pix_loss=model.target == "norm_pixels",
    )
    return Peer(
        name="stable-pretraining",
        module=other,
        loss=lambda images, noise: other(images).loss,
        shipped={"attention": "sdpa", "optimizer": "plain"},
        formula=formula,
        note="its decoder's weights cannot be ours (no class token): compared by its loss formula",
    )


def reference(model: MAE) -> Peer:
    """Plain PyTorch, written from the paper (`reference.py`)."""
    other = Reference(model)
    other.load(official_names(model))
    return Peer(
        name="reference",
        module=other,
        loss=other,
        attention={
            "sdpa": partial(other.attention, True),
            "eager": partial(other.attention, False),
        },
        # as the published training script: it reads the loss at every step
        shipped={"attention": "eager", "optimizer": "plain", "reads_loss": "every step"},
    )


PEERS: dict[str, Callable[[MAE], Peer]] = {
    "transformers": transformers,
    "lightly": lightly,
    "stable-pretraining": stable_pretraining,
    "reference": reference,
}
"""Name -> builder. To add one, write the function above and its line here."""
