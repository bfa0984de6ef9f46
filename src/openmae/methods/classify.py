"""A classifier on a pretrained encoder: end-to-end, partial and from-scratch training (sections 4
and A.1 of the paper).

B batch, K classes, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods.base import Randomness, encoder_of, mean_and_std
from openmae.methods.downstream import Downstream
from openmae.methods.mixing import Mixing
from openmae.models import droppath


class Classifier(Downstream):
    """An encoder with timm's own head: `fc_norm` on the mean of the patch tokens (the final norm of
    pretraining is not used), or the class token after the final norm, then a linear layer.

    Args:
        encoder: a timm name of a plain ViT.
        classes: names of the classes, in the order of the outputs.
        image_size, patch_size, in_chans, encoder_args, mean, std, value_range, bands: as of `MAE`.
        pool: "mean" or "cls".
        drop_path: rate of the last block; the others rise to it linearly from 0.
        blocks: train only the last blocks and the head; 0.5 is the MLP of the last block, 0 the
            head alone (Figure 9). None trains everything, positions as well.
        smoothing, mixup, cutmix, mix_prob: of the training targets.
        class_weights: of the loss, one a class; best with a mean of 1.
        multi_label: labels (B, K) of zeros and ones, and a binary loss.

    Raises:
        UsageError: an unknown name, or sizes that do not fit.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        encoder: str = "vit_base_patch16_224",
        classes: Sequence[str] = (),
        image_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] | None = None,
        in_chans: int = 3,
        encoder_args: Mapping[str, Any] | None = None,
        pool: str = "mean",
        drop_path: float = 0.0,
        blocks: float | None = None,
        smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_prob: float = 1.0,
        class_weights: Sequence[float] | None = None,
        multi_label: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] = (),
    ) -> None:
        super().__init__()
        mean, std = mean_and_std(in_chans, mean, std)
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.classes, self.pool, self.multi_label = list(classes), pool, multi_label
        head = {"global_pool": "avg" if pool == "mean" else "token", "fc_norm": pool == "mean"}
        arguments = {**(encoder_args or {}), **head, "num_classes": len(self.classes)}
        self.encoder = encoder_of(
            encoder, image_size, patch_size, in_chans, arguments, mean, std, value_range, bands
        )
        self.paths = droppath.install(self.encoder.vit, drop_path)
        self.mixing = Mixing(len(self.classes), smoothing, mixup, cutmix, mix_prob, multi_label)
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.encoder.initialise()
        self.initialise_head()
        self._freeze(blocks)

    def initialise_head(self) -> None:
        """A fresh `fc_norm`, and a linear layer from a normal distribution of 2e-5, cut off."""
        vit = self.encoder.vit
        if isinstance(vit.fc_norm, nn.LayerNorm):
            nn.init.ones_(vit.fc_norm.weight)
            nn.init.zeros_(vit.fc_norm.bias)
        nn.init.trunc_normal_(vit.head.weight, std=2e-5)
        nn.init.zeros_(vit.head.bias)

    def _freeze(self, blocks: float | None) -> None:
        """What is trained: everything, or the last blocks (whole ones and the MLP of one more)."""
        vit = self.encoder.vit
        vit.pos_embed.requires_grad_(True)  # frozen in pretraining, trained from here on
        if blocks is None:
            return
        depth = len(vit.blocks)
        if not 0 <= blocks <= depth or blocks * 2 % 1:
            raise UsageError(
                f"--blocks {blocks:g}: give 0 to {depth}, in steps of a half, for this encoder"
            )
        vit.requires_grad_(False)
        whole = int(blocks)
        last = list(vit.blocks)[depth - whole :]
        part = [vit.blocks[depth - whole - 1].norm2, vit.blocks[depth - whole - 1].mlp]
        for module in (*last, *(part if blocks % 1 else ()), vit.norm, vit.fc_norm, vit.head):
            module.requires_grad_(True)

    def logits(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), uint8 or normalised floats -> (B, K)."""
        out: Tensor = self.encoder.vit.forward_head(self.encoder(images))
        return out

    def forward(
        self, batch: Mapping[str, Any], rand: Randomness | None = None
    ) -> dict[str, Tensor]:
        """A batch with "image" (B, C, H, W) and "label" -> {"loss", "sample_loss"}.

        `rand` decides the dropped paths and the mixing; without it nothing is mixed, and in
        training mode paths are dropped by torch's global generator.
        """
        images = self.encoder.normalize(batch["image"])
        labels = torch.as_tensor(batch["label"], device=images.device)
        if self.training:
            self.draw_paths(len(images), rand, images.device)
        if rand is not None and self.training and self.mixing.on:
            images, targets = self.mixing(images, labels, rand)
        else:
            targets = self.mixing.targets(labels)
        samples = self.losses(self.logits(images), targets)
        return {"loss": samples.mean(), "sample_loss": samples.detach()}

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits and soft targets (B, K) -> the loss of each row (B,).

        Class weights multiply terms and are not divided out again, so that micro-batches add up.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()  # bf16 is too coarse
        targets = targets.to(logits.dtype)
        if self.multi_label:
            terms = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            return (terms if self.class_weights is None else terms * self.class_weights).mean(-1)
        terms = -targets * F.log_softmax(logits, dim=-1)
        return (terms if self.class_weights is None else terms * self.class_weights).sum(-1)
