"""What the objects are: the box and mask heads of Mask R-CNN as ViTDet has them, made of
torchvision's parts.

B images, C channels of the pyramid, R regions of all images, G objects of an image, S classes with
the background as number 0. Boxes are x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes, roi_align

from openmae.models.proposals import STRIDES, assign, precise, sample

NOISE = 2048
"""Random numbers of an image from which its regions are drawn; longer lists go round."""


class RoIHeads(nn.Module):
    """A box head of 4 convolutions and a linear layer, a mask head of 4 convolutions, a transposed
    one and a 1x1, LayerNorm after each of the convolutions, with 7x7 and 14x14 values of a region.

    Args:
        channels: C.
        classes: S - 1.
        patch: side of a patch in pixels.
        masks: whether there is a mask head.
        sampled: regions of an image that the loss looks at, a quarter of them on objects.
        score, overlap, most: least score of a detection, largest overlap of two of a class, and
            detections of an image.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        patch: int,
        masks: bool = True,
        sampled: int = 512,
        score: float = 0.05,
        overlap: float = 0.5,
        most: int = 100,
    ) -> None:
        super().__init__()
        self.patch, self.sampled = patch, sampled
        self.score, self.overlap, self.most = score, overlap, most
        norm = partial(LayerNorm2d, eps=1e-6)
        four = [channels] * 4
        self.box_head = FastRCNNConvFCHead((channels, 7, 7), four, [4 * channels], norm)
        self.box_predictor = FastRCNNPredictor(4 * channels, classes + 1)
        nn.init.normal_(self.box_predictor.cls_score.weight, std=0.01)
        nn.init.normal_(self.box_predictor.bbox_pred.weight, std=0.001)
        for layer in (self.box_predictor.cls_score, self.box_predictor.bbox_pred):
            nn.init.zeros_(layer.bias)
        self.mask_head = MaskRCNNHeads(channels, four, 1, norm) if masks else None
        self.mask_predictor = MaskRCNNPredictor(channels, channels, classes + 1) if masks else None
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.matcher = Matcher(0.5, 0.5, allow_low_quality_matches=False)

    def pool(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], side: int) -> Tensor:
        """Values (R, C, side, side) of regions, each from the level of its size: a region of 14
        patches a side comes from the level of whole patches (224 pixels from stride 16), half of
        that from the next finer one.
        """
        number = torch.cat([torch.full_like(b[:, :1], i) for i, b in enumerate(boxes)])
        rois = torch.cat([number, torch.cat(list(boxes))], 1)
        sides = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).clamp(min=1e-6).sqrt()
        level = (2 + torch.log2(sides / (14 * self.patch)) + 1e-6).floor().clamp(0, 3)
        out = maps[0].new_zeros(len(rois), maps[0].shape[1], side, side)
        for i in range(4):
            at = torch.where(level == i)[0]
            scale = 1 / (STRIDES[i] * self.patch)
            values = precise(maps[i])  # and with it the boxes
            own = roi_align(values, rois[at].to(values.dtype), side, scale, 0, aligned=True)
            out = out.index_copy(0, at, own.to(out.dtype))
        return out

    def losses(
        self,
        maps: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Mapping[str, Sequence[Tensor]],
        noise: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of each image (B,), divided by its own regions (of masks: those on objects).

        `targets` has for each image "boxes" (G, 4), "labels" (G,) from 0 on, and with a mask head
        "masks" (G, H, W); `noise` is (B, NOISE).
        """
        regions, truth, match = [], [], []
        for i, boxes in enumerate(targets["boxes"]):
            with torch.no_grad():
                every = torch.cat([proposals[i], boxes])
                on, which = assign(self.matcher, boxes, every)
                draws = noise[i][torch.arange(len(every), device=noise.device) % noise.shape[1]]
                at = sample(on, draws, self.sampled, 0.25)
                named = targets["labels"][i][which[at]] + 1 if len(boxes) else on[at]
            regions.append(every[at])
            truth.append(torch.where(on[at] > 0, named, 0))
            match.append(which[at])
        counts = [len(r) for r in regions]
        logits, offsets = self._boxes(maps, regions)
        classes = F.cross_entropy(logits, torch.cat(truth), reduction="none")
        errors = self._errors(offsets, regions, truth, match, targets["boxes"])
        out = {"loss_class": _means(classes, counts), "loss_box": _means(errors, counts)}
        if self.mask_head is not None:
            kept = [t > 0 for t in truth]
            regions = [r[k] for r, k in zip(regions, kept, strict=True)]
            match = [m[k] for m, k in zip(match, kept, strict=True)]
            named = torch.cat([t[k] for t, k in zip(truth, kept, strict=True)])
            out["loss_mask"] = self._masks(maps, regions, match, named, targets["masks"])
        return out

    def _boxes(self, maps: Sequence[Tensor], regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits, offsets = self.box_predictor(self.box_head(self.pool(maps, regions, 7)))
        return precise(logits), precise(offsets)

    def _errors(
        self,
        offsets: Tensor,
        regions: Sequence[Tensor],
        truth: Sequence[Tensor],
        match: Sequence[Tensor],
        objects: Sequence[Tensor],
    ) -> Tensor:
        """Error of the box of each region (R,), 0 of the background."""
        wanted = [
            self.coder.encode_single(boxes[m], r) if len(boxes) else torch.zeros_like(r)
            for boxes, m, r in zip(objects, match, regions, strict=True)
        ]
        named = torch.cat(list(truth))
        own = offsets.unflatten(1, (-1, 4))[torch.arange(len(named), device=named.device), named]
        error = F.smooth_l1_loss(own, torch.cat(wanted), beta=1 / 9, reduction="none").sum(1)
        return torch.where(named > 0, error, 0.0)

    def _masks(
        self,
        maps: Sequence[Tensor],
        regions: Sequence[Tensor],
        match: Sequence[Tensor],
        named: Tensor,
        masks: Sequence[Tensor],
    ) -> Tensor:
        logits = self._mask_logits(maps, regions, named)
        side = logits.shape[-1]
        wanted = [
            roi_align(own[:, None].to(r), torch.cat([m[:, None].to(r), r], 1), side, 1.0)[:, 0]
            for own, m, r in zip(masks, match, regions, strict=True)
        ]
        errors = F.binary_cross_entropy_with_logits(logits, torch.cat(wanted), reduction="none")
        return _means(errors.mean((1, 2)), [len(r) for r in regions])

    def _mask_logits(
        self, maps: Sequence[Tensor], regions: Sequence[Tensor], named: Tensor
    ) -> Tensor:
        assert self.mask_head is not None
        assert self.mask_predictor is not None
        logits = precise(self.mask_predictor(self.mask_head(self.pool(maps, regions, 14))))
        return logits[torch.arange(len(named), device=named.device), named]

    @torch.no_grad()
    def detect(
        self, maps: Sequence[Tensor], proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Detections of each image, the best first: "boxes" (n, 4), "scores" (n,), "labels" (n,)
        from 0 on, and with a mask head "masks" (n, 28, 28) in [0, 1], each over its box.
        """
        logits, offsets = self._boxes(maps, proposals)
        counts = [len(p) for p in proposals]
        boxes = self.coder.decode_single(offsets, torch.cat(list(proposals))).unflatten(1, (-1, 4))
        scores = logits.softmax(-1)
        parts = zip(boxes.split(counts), scores.split(counts), sizes, strict=True)
        found = [self._best(*part) for part in parts]
        if self.mask_head is not None:
            named = torch.cat([f["labels"] for f in found]) + 1
            masks = self._mask_logits(maps, [f["boxes"] for f in found], named).sigmoid()
            for own, part in zip(found, masks.split([len(f["boxes"]) for f in found]), strict=True):
                own["masks"] = part
        return found

    def _best(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        boxes = clip_boxes_to_image(boxes[:, 1:], size).flatten(0, 1)
        labels = torch.arange(scores.shape[1] - 1, device=scores.device).repeat(len(scores))
        scores = scores[:, 1:].flatten()
        kept = torch.where(scores > self.score)[0]
        kept = kept[remove_small_boxes(boxes[kept], 1e-2)]
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        kept = batched_nms(boxes, scores, labels, self.overlap)[: self.most]
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def _means(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Values of all regions -> the mean of each image (B,); 0, with a gradient of 0, of none."""
    return torch.stack([part.sum() / max(len(part), 1) for part in values.split(list(counts))])


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, m, m) in [0, 1] over boxes (n, 4) -> bool (n, height, width) of the whole image:
    bilinear at the centre of each pixel, above a half.
    """
    height, width = size
    out = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    for i, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        x1, y1, x2, y2 = box.tolist()
        left, right = max(int(x1), 0), min(int(x2) + 1, width)
        top, bottom = max(int(y1), 0), min(int(y2) + 1, height)
        if right <= left or bottom <= top:
            continue
        x = (torch.arange(left, right, device=masks.device) + 0.5 - x1) / max(x2 - x1, 1e-6) * 2 - 1
        y = (torch.arange(top, bottom, device=masks.device) + 0.5 - y1) / max(y2 - y1, 1e-6) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None].to(masks.dtype)
        values = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
        out[i, top:bottom, left:right] = values > 0.5
    return out
