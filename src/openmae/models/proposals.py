"""Where objects may be: the anchors and the region proposal network of Mask R-CNN, on a pyramid of
any patch size.

B images, C channels, N anchors of an image (all levels), G objects, K proposals. Boxes are
x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes

RATIOS = (0.5, 1.0, 2.0)
"""Height by width of the anchors of a place."""

STRIDES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the pyramid's levels, in patches."""


class Proposals(nn.Module):
    """Two 3x3 convolutions, an objectness and four offsets for each anchor; anchors of 8 strides a
    side, so 32 to 512 pixels for patches of 16.

    Args:
        channels: C of the pyramid.
        patch: side of a patch in pixels.
        sampled: anchors of an image that the loss looks at, at most half of them on objects.
        before: best anchors of each level before suppression, in training and in use.
        after: K, proposals of an image that remain.
    """

    def __init__(
        self,
        channels: int,
        patch: int,
        sampled: int = 256,
        before: tuple[int, int] = (2000, 1000),
        after: int = 1000,
    ) -> None:
        super().__init__()
        self.head = RPNHead(channels, len(RATIOS), conv_depth=2)
        self.strides = [patch * s for s in STRIDES]
        self.sampled, self.before, self.after = sampled, before, after
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Maps (B, C, h, w) -> objectness (B, N), offsets (B, N, 4), anchors (N, 4), and how many
        anchors each level has.
        """
        logits, offsets = self.head(list(maps))
        many = [precise(v.permute(0, 2, 3, 1).flatten(1)) for v in logits]
        four = [precise(v.permute(0, 2, 3, 1).flatten(1)).unflatten(1, (-1, 4)) for v in offsets]
        anchors = [
            anchors_of((m.shape[2], m.shape[3]), s, m.device)
            for m, s in zip(maps, self.strides, strict=True)
        ]
        return torch.cat(many, 1), torch.cat(four, 1), torch.cat(anchors), [len(a) for a in anchors]

    @torch.no_grad()
    def propose(
        self, found: tuple[Tensor, Tensor, Tensor, list[int]], sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """What `forward` gave -> boxes (K or fewer, 4) of each image, the best first, inside of its
        (height, width).
        """
        scores, offsets, anchors, counts = found
        limit = self.before[0 if self.training else 1]
        out = []
        for own, moves, size in zip(scores, offsets, sizes, strict=True):
            kept, level, start = [], [], 0
            for number, count in enumerate(counts):
                best = own[start : start + count].topk(min(limit, count)).indices + start
                kept.append(best)
                level.append(torch.full_like(best, number))
                start += count
            at, levels = torch.cat(kept), torch.cat(level)
            boxes = self.coder.decode_single(moves[at], anchors[at])
            boxes = clip_boxes_to_image(boxes, size)
            fits = remove_small_boxes(boxes, 1e-3)
            boxes, values, levels = boxes[fits], own[at][fits], levels[fits]
            out.append(boxes[batched_nms(boxes, values, levels, 0.7)[: self.after]])
        return out

    def losses(
        self,
        found: tuple[Tensor, Tensor, Tensor, list[int]],
        boxes: Sequence[Tensor],
        noise: Tensor,
    ) -> dict[str, Tensor]:
        """What `forward` gave, boxes (G, 4) and noise (B, N) -> the two losses of each image (B,),
        divided by the anchors that its sample has.
        """
        scores, offsets, anchors, _ = found
        objectness, regression = [], []
        for i, own in enumerate(boxes):
            with torch.no_grad():
                labels, match = assign(self.matcher, own, anchors)
                at = sample(labels, noise[i], self.sampled, 0.5)
                on = at[labels[at] > 0]
            truth = (labels[at] > 0).to(scores.dtype)
            objectness.append(F.binary_cross_entropy_with_logits(scores[i, at], truth))
            wanted = self.coder.encode_single(own[match[on]], anchors[on]) if len(on) else None
            got = offsets[i, on]
            error = got.sum() if wanted is None else F.smooth_l1_loss(
                got, wanted, beta=1 / 9, reduction="sum"
            )  # fmt: skip
            regression.append(error / max(len(at), 1))
        return {"loss_objectness": torch.stack(objectness), "loss_anchors": torch.stack(regression)}


def precise(x: Tensor) -> Tensor:
    """At least single precision: half of it is too coarse for boxes and losses."""
    return x if x.dtype == torch.float64 else x.float()


def anchors_of(grid: tuple[int, int], stride: float, device: torch.device) -> Tensor:
    """Anchors (rows * columns * 3, 4) of a level: centred on the upper left of each place."""
    side = torch.tensor(RATIOS, device=device).sqrt() * 8 * stride  # heights; widths are 1 / ratio
    half = torch.stack([(8 * stride) ** 2 / side, side], 1) / 2
    y = torch.arange(grid[0], device=device) * stride
    x = torch.arange(grid[1], device=device) * stride
    centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 1, 2)
    return torch.cat([centre - half, centre + half], -1).flatten(0, 1)


def assign(matcher: Matcher, objects: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Objects (G, 4), boxes (N, 4) -> labels (N,): 1 on an object, 0 background, -1 neither; and
    which object (N,).
    """
    if not len(objects):
        none = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return none, none
    found = matcher(box_iou(objects, boxes))
    labels = (found >= 0).to(torch.int64)
    labels[found == Matcher.BETWEEN_THRESHOLDS] = -1
    return labels, found.clamp(min=0)


def sample(labels: Tensor, noise: Tensor, count: int, share: float) -> Tensor:
    """Indices of at most `count` of labels (N,), at most a `share` of them positive, the rest
    background: those of the least noise (N,), so the choice is a function of the noise alone.
    """
    on, off = torch.where(labels > 0)[0], torch.where(labels == 0)[0]
    first = _least(on, noise, int(count * share))
    return torch.cat([first, _least(off, noise, count - len(first))])


def _least(at: Tensor, noise: Tensor, count: int) -> Tensor:
    return at[noise[at].argsort(stable=True)[:count]]
