"""Heads that give every pixel a class: UPerNet with its auxiliary head, and two light ones for
frozen encoders.

All norms are LayerNorm over the channels of one position. BatchNorm, which UPerNet was published
with, ties an image to the others of its micro-batch and its rank; then accumulation, the number of
ranks and a resumed run would change the result, and at one image a batch it fails. GroupNorm would
tie a position to the whole window, so that a sliding window would see other values at its seams;
both have as many parameters.

B batch, D width of the encoder, C width of the head, K classes, h and w rows and columns of
patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

POOLS = (1, 2, 3, 6)
"""Sides of the pyramid pooling module's grids."""


def unit(inputs: int, outputs: int, side: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the size, LayerNorm over channels, ReLU."""
    conv = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
    return nn.Sequential(conv, LayerNorm2d(outputs), nn.ReLU())


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, C, h, w) at another size, bilinear, corners not aligned."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def pool_rows(length: int, parts: int, like: Tensor) -> Tensor:
    """The matrix (parts, length) of adaptive average pooling along one side. A product has a
    deterministic gradient on every device; torch's own pooling has none on GPUs.
    """
    part = torch.arange(parts, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)
    first, end = part * length // parts, ((part + 1) * length + parts - 1) // parts
    inside = ((place >= first) & (place < end)).to(like.dtype)
    return inside / (end - first).to(like.dtype)


class Pyramid(nn.Module):
    """Four maps of one stride at 1/4, 1/2, 1 and 2 times that stride, as published for BEiT and
    MAE: two deconvolutions with a GELU between, one, none, and max pooling.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()

        def up() -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)

        self.up4 = nn.Sequential(up(), LayerNorm2d(dim), nn.GELU(), up())
        self.up2 = up()

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four maps (B, D, h, w) -> sizes 4h x 4w, 2h x 2w, h x w and half of it, rounded up."""
        low = F.max_pool2d(maps[3], 2, ceil_mode=True)
        return [self.up4(maps[0]), self.up2(maps[1]), maps[2], low]


class UPerNet(nn.Module):
    """Pyramid pooling on the coarsest map, a feature pyramid from there to the finest, and the
    fusion of all four (arXiv 1807.10221), on a pyramid made from four maps of the encoder.
    """

    count, norm = 4, False  # maps that it reads, and whether after the encoder's final norm

    def __init__(self, dim: int, classes: int, width: int = 512) -> None:
        super().__init__()
        self.pyramid = Pyramid(dim)
        self.pools = nn.ModuleList(unit(dim, width) for _ in POOLS)
        self.bottleneck = unit(dim + len(POOLS) * width, width, 3)
        self.laterals = nn.ModuleList(unit(dim, width) for _ in range(3))
        self.smooth = nn.ModuleList(unit(width, width, 3) for _ in range(3))
        self.fusion = unit(4 * width, width, 3)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps (B, D, h, w) -> fused features (B, C, 4h, 4w); `classify` comes after."""
        levels = self.pyramid(maps)
        tops = [lateral(level) for lateral, level in zip(self.laterals, levels[:3], strict=True)]
        tops.append(self._pooled(levels[3]))
        for i in (2, 1, 0):
            tops[i] = tops[i] + resized(tops[i + 1], tops[i].shape[-2:])
        out = [smooth(top) for smooth, top in zip(self.smooth, tops[:3], strict=True)]
        size = out[0].shape[-2:]
        fused: Tensor = self.fusion(torch.cat([resized(m, size) for m in (*out, tops[3])], dim=1))
        return fused

    def _pooled(self, level: Tensor) -> Tensor:
        height, width = level.shape[-2:]
        parts = [level]
        for side, reduce in zip(POOLS, self.pools, strict=True):
            rows, columns = pool_rows(height, side, level), pool_rows(width, side, level)
            parts.append(resized(reduce(rows @ level @ columns.t()), (height, width)))
        out: Tensor = self.bottleneck(torch.cat(parts, dim=1))
        return out


class FCN(nn.Module):
    """The auxiliary head: one 3 x 3 unit on the third map. It is trained with UPerNet and not used
    afterwards.
    """

    def __init__(self, dim: int, classes: int, width: int = 256) -> None:
        super().__init__()
        self.unit = unit(dim, width, 3)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, D, h, w) -> features (B, C, h, w); `classify` comes after."""
        out: Tensor = self.unit(maps[2])
        return out


class Linear(nn.Module):
    """A linear layer on the last map: how much a frozen encoder knows by itself."""

    count, norm = 1, True

    def __init__(self, dim: int, classes: int, width: int = 0) -> None:
        super().__init__()
        self.classify = nn.Conv2d(dim, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The last map, as it is."""
        return maps[-1]


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3 x 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        out: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return x + out


class DPT(nn.Module):
    """A light head after DPT (arXiv 2103.13413): each of four maps is normalised and made narrow,
    resized to strides of 1/4, 1/2, 1 and 2 patches without weights, and fused from coarse to fine
    by residual units.
    """

    count, norm = 4, False

    def __init__(self, dim: int, classes: int, width: int = 256) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(
            nn.Sequential(LayerNorm2d(dim), nn.Conv2d(dim, width, 1)) for _ in range(4)
        )
        self.fuse = nn.ModuleList(Residual(width) for _ in range(4))
        self.last = unit(width, width, 3)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps (B, D, h, w) -> features (B, C, 4h, 4w); `classify` comes after."""
        height, width = maps[0].shape[-2:]
        sizes = [(4 * height, 4 * width), (2 * height, 2 * width), (height, width)]
        sizes.append((-(-height // 2), -(-width // 2)))
        levels = [resized(r(m), s) for r, m, s in zip(self.reduce, maps, sizes, strict=True)]
        x = self.fuse[3](levels[3])
        for i in (2, 1, 0):
            x = self.fuse[i](levels[i] + resized(x, sizes[i]))
        out: Tensor = self.last(x)
        return out


HEADS: dict[str, type[UPerNet] | type[Linear] | type[DPT]] = {
    "upernet": UPerNet,
    "linear": Linear,
    "dpt": DPT,
}
