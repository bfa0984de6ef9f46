"""A detector on a pretrained encoder: Mask R-CNN on a plain backbone, as ViTDet (Table 4 of the
paper, and Li et al. 2022).

B batch, C channels, G objects of an image, H and W height and width. Boxes are x1, y1, x2, y2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from openmae.errors import UsageError
from openmae.methods.base import Randomness, encoder_of, mean_and_std
from openmae.methods.downstream import Downstream
from openmae.models import droppath, windows
from openmae.models.groups import refuse_groups
from openmae.models.masking import moved
from openmae.models.proposals import Proposals
from openmae.models.pyramid import SimplePyramid
from openmae.models.roiheads import NOISE, RoIHeads


class Detector(Downstream):
    """An encoder with windowed blocks, the simple pyramid and the heads of Mask R-CNN.

    Args:
        encoder: a timm name of a plain ViT.
        classes: names of the classes, in the order of the outputs.
        image_size: of everything that it sees; images are fitted into it.
        patch_size, in_chans, encoder_args, mean, std, value_range, bands: as of `MAE`.
        masks: whether it finds masks as well as boxes.
        window: side of the windows of attention in patches.
        global_blocks: blocks that attend globally, counted from 0; by default the last of each
            quarter.
        relative: learned relative positions, zero at the start.
        drop_path: rate of the last block; the others rise to it linearly from 0.
        frozen: train all but the encoder.
        pyramid_dim: channels of the pyramid and of the heads.
        regions: regions of an image that the loss of the heads looks at.
        detections: of an image at most.

    Raises:
        UsageError: an unknown name, or sizes that do not fit.
    """

    def __init__(
        self,
        encoder: str = "vit_base_patch16_224",
        classes: Sequence[str] = (),
        image_size: int | tuple[int, int] = 1024,
        patch_size: int | tuple[int, int] | None = None,
        in_chans: int = 3,
        encoder_args: Mapping[str, Any] | None = None,
        masks: bool = True,
        window: int = 14,
        global_blocks: Sequence[int] | None = None,
        relative: bool = True,
        drop_path: float = 0.0,
        frozen: bool = False,
        pyramid_dim: int = 256,
        regions: int = 512,
        detections: int = 100,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] = (),
    ) -> None:
        super().__init__()
        mean, std = mean_and_std(in_chans, mean, std)
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.classes, self.masks, self.frozen = list(classes), masks, frozen
        self.encoder = encoder_of(
            encoder, image_size, patch_size, in_chans, encoder_args, mean, std, value_range, bands
        )
        refuse_groups(self.encoder, "detection")
        vit, (patch, across) = self.encoder.vit, self.encoder.patch
        if patch != across or vit.embed_dim % 4:
            raise UsageError("a detector needs square patches and a width that divides by 4")
        windows.install(vit, window, global_blocks)
        self.paths = droppath.install(vit, 0.0 if frozen else drop_path)
        self.encoder.initialise()
        relative = relative and not frozen
        self.relative = windows.RelativePositions(vit, self.encoder.grid) if relative else None
        self.pyramid = SimplePyramid(vit.embed_dim, pyramid_dim)
        self.proposals = Proposals(pyramid_dim, patch)
        heads: dict[str, Any] = {"masks": masks, "sampled": regions, "most": detections}
        self.heads = RoIHeads(pyramid_dim, len(self.classes), patch, **heads)
        vit.pos_embed.requires_grad_(not frozen)
        vit.norm.requires_grad_(False)  # not part of the published backbone
        for token in (vit.cls_token, vit.reg_token):
            if token is not None:
                token.requires_grad_(False)
        if frozen:
            vit.requires_grad_(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W), uint8 or normalised floats -> the five maps of the pyramid."""
        with torch.no_grad() if self.frozen else nullcontext():
            last = windows.feature_map(self.encoder, images, self.relative)
        out: list[Tensor] = self.pyramid(last)
        return out

    def forward(
        self, batch: Mapping[str, Any], rand: Randomness | None = None
    ) -> dict[str, Tensor]:
        """A batch with "image" (B, C, H, W) and lists of one tensor an image: "boxes" (G, 4) in
        pixels, "labels" (G,) from 0 on and "masks" (G, H, W) -> {"loss", "sample_loss", and the
        mean of each of the five terms}.

        Each term is divided by what was sampled in its own image, and the loss is the mean over
        the images, so that micro-batches and ranks add up. (torchvision divides by what was sampled
        in the whole batch; the two are the same where every image has its full sample.) Which
        anchors and regions are sampled is decided by `rand`, for each image by itself.
        """
        images = batch["image"]
        rows, device = len(images), images.device
        if self.training:
            self.draw_paths(rows, rand, device)
        maps = self.maps(images)
        found = self.proposals(maps)
        boxes = [b.to(found[0].dtype) for b in batch["boxes"]]
        noise = self._noise("anchors", (rows, found[0].shape[1]), rand, device)
        terms = self.proposals.losses(found, boxes, noise)
        sizes = [(images.shape[2], images.shape[3])] * rows
        regions = self.proposals.propose(found, sizes)
        targets = {"boxes": boxes, "labels": batch["labels"], "masks": batch.get("masks", ())}
        noise = self._noise("regions", (rows, NOISE), rand, device)
        terms |= self.heads.losses(maps, regions, targets, noise)
        samples = torch.stack(list(terms.values())).sum(0)
        logged = {name: values.mean().detach() for name, values in terms.items()}
        return {"loss": samples.mean(), "sample_loss": samples.detach(), **logged}

    def _noise(
        self, purpose: str, shape: tuple[int, int], rand: Randomness | None, device: torch.device
    ) -> Tensor:
        draw = torch.rand(shape) if rand is None else rand.uniform(purpose, shape)
        return moved(draw, device)

    @torch.no_grad()
    def detect(
        self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[dict[str, Tensor]]:
        """Images (B, C, H, W), and the height and width that each one fills -> detections of each,
        as `RoIHeads.detect` has them.
        """
        sizes = sizes or [(images.shape[2], images.shape[3])] * len(images)
        maps = self.maps(images)
        regions = self.proposals.propose(self.proposals(maps), sizes)
        return self.heads.detect(maps, regions, sizes)
