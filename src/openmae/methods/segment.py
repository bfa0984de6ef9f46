"""A segmenter on a pretrained encoder: a class for every pixel (Tables 5 and 7 of the paper).

B batch, K classes, C channels, H and W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods.base import Randomness, encoder_of, mean_and_std
from openmae.methods.downstream import Downstream
from openmae.models import droppath
from openmae.models.dense import chosen_blocks, feature_maps, padded
from openmae.models.groups import refuse_groups
from openmae.models.masking import moved
from openmae.models.upernet import FCN, HEADS, resized

IGNORED = -1
"""In a mask: no label. Such pixels have no loss and are not scored."""

_DROPPED = 0.1  # of the channels before the last layer, as published


class Segmenter(Downstream):
    """An encoder with a head for every pixel.

    Args:
        encoder: a timm name of a plain ViT.
        classes: names of the classes, in the order of the outputs.
        image_size: of the crops that it is trained on, and of the windows that it is tested on.
        patch_size, in_chans, encoder_args, mean, std, value_range, bands: as of `MAE`.
        head: "upernet", or the light "dpt" and "linear".
        head_dim: width of the head.
        auxiliary: weight of the loss of an FCN head on the third map; 0 for none.
        blocks: whose maps the head reads, counted from 0; by default as published, or evenly.
        drop_path: rate of the last block; the others rise to it linearly from 0.
        frozen: train the head alone.
        labels: what the numbers and colours in files of masks mean, as
            `openmae.data.maskfile.Labels.record` gives it; kept for those who read masks.
        short_side: images are resized to this shorter side first, in training and testing.

    Raises:
        UsageError: an unknown name, or sizes that do not fit.
    """

    def __init__(
        self,
        encoder: str = "vit_base_patch16_224",
        classes: Sequence[str] = (),
        image_size: int | tuple[int, int] = 512,
        patch_size: int | tuple[int, int] | None = None,
        in_chans: int = 3,
        encoder_args: Mapping[str, Any] | None = None,
        head: str = "upernet",
        head_dim: int = 512,
        auxiliary: float = 0.4,
        blocks: Sequence[int] | None = None,
        drop_path: float = 0.0,
        frozen: bool = False,
        labels: Mapping[str, Any] | None = None,
        short_side: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] = (),
    ) -> None:
        super().__init__()
        mean, std = mean_and_std(in_chans, mean, std)
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.classes, self.auxiliary, self.frozen = list(classes), auxiliary, frozen
        self.encoder = encoder_of(
            encoder, image_size, patch_size, in_chans, encoder_args, mean, std, value_range, bands
        )
        refuse_groups(self.encoder, "segmentation")
        vit = self.encoder.vit
        if head not in HEADS:
            raise UsageError(f"head {head}: there are {', '.join(HEADS)}")
        self.paths = droppath.install(vit, 0.0 if frozen else drop_path)
        count, depth = HEADS[head].count, len(vit.blocks)
        self.blocks_read = tuple(blocks or (chosen_blocks(depth) if count > 1 else (depth - 1,)))
        if len(self.blocks_read) != count or max(self.blocks_read) >= depth:
            raise UsageError(f"head {head} reads {count} blocks of 0 to {depth - 1}")
        self.encoder.initialise()
        self.head = HEADS[head](vit.embed_dim, len(self.classes), head_dim)
        self.extra = None
        if auxiliary > 0 and head == "upernet":
            self.extra = FCN(vit.embed_dim, len(self.classes), min(256, head_dim // 2))
        self.initialise_head()
        self._freeze()

    def initialise_head(self) -> None:
        """Convolutions by He's normal initialisation, the classifying layers N(0, 0.01)."""
        for part in (self.head, *([] if self.extra is None else [self.extra])):
            for module in part.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
            nn.init.normal_(part.classify.weight, std=0.01)

    def _freeze(self) -> None:
        """Positions are trained from here on; what the head does not read is not."""
        vit = self.encoder.vit
        vit.pos_embed.requires_grad_(True)
        vit.norm.requires_grad_(self.head.norm)
        for block in vit.blocks[max(self.blocks_read) + 1 :]:
            block.requires_grad_(False)
        if self.frozen:
            vit.requires_grad_(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) of whole patches -> the maps that the head reads."""
        with torch.no_grad() if self.frozen else nullcontext():
            return feature_maps(self.encoder, images, self.blocks_read, self.head.norm)

    def logits(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) of any size, uint8 or normalised floats -> (B, K, H, W)."""
        size = images.shape[-2:]
        whole = padded(self.encoder.normalize(images), self.encoder.patch)
        out: Tensor = self.head.classify(self.head(self.maps(whole)))
        return resized(out, whole.shape[-2:])[..., : size[0], : size[1]]

    def forward(
        self, batch: Mapping[str, Any], rand: Randomness | None = None
    ) -> dict[str, Tensor]:
        """A batch with "image" (B, C, H, W) and "mask" (B, H, W), class numbers and -1 for no label
        -> {"loss", "sample_loss"} and with the auxiliary head "auxiliary_loss".

        The loss of an image is the mean over its labelled pixels, and that of a batch the mean over
        its images, so that micro-batches and ranks add up. (Elsewhere it is the mean over the
        pixels of the batch; images with few labelled pixels weigh less there.)
        """
        images = self.encoder.normalize(batch["image"])
        if self.training:
            self.draw_paths(len(images), rand, images.device)
        size, whole = images.shape[-2:], padded(images, self.encoder.patch)
        maps, mask = self.maps(whole), batch["mask"].long()
        losses: list[Tensor] = []
        for name, part in (("head", self.head), ("auxiliary", self.extra)):
            if part is not None:
                features = self._dropped(part(maps), name, rand)
                out = resized(part.classify(features), whole.shape[-2:])
                losses.append(pixel_losses(out[..., : size[0], : size[1]], mask))
        samples = losses[0] if len(losses) == 1 else losses[0] + self.auxiliary * losses[1]
        more = {"auxiliary_loss": losses[1].mean().detach()} if len(losses) > 1 else {}
        return {"loss": samples.mean(), "sample_loss": samples.detach(), **more}

    def _dropped(self, features: Tensor, name: str, rand: Randomness | None) -> Tensor:
        """Whole channels are dropped before the last layer in training, by `rand` alone."""
        if not self.training or rand is None:
            return features
        draw = moved(rand.uniform(f"{name}-dropout", tuple(features.shape[:2])), features.device)
        kept = (draw >= _DROPPED).to(features.dtype) / (1 - _DROPPED)
        return features * kept[..., None, None]


def pixel_losses(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits (B, K, H, W) and classes (B, H, W), -1 for no label -> the mean cross-entropy of each
    image's labelled pixels (B,); 0 for an image without any.

    Written as logsumexp minus the label's logit: torch's own loss of planes has no deterministic
    gradient on GPUs.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    known = mask != IGNORED
    label = logits.gather(1, mask.clamp(min=0)[:, None])[:, 0]
    terms = torch.where(known, torch.logsumexp(logits, dim=1) - label, 0.0)
    return terms.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)
