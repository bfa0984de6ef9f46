"""The simple feature pyramid of ViTDet (Li et al. 2022): all levels from the last map alone.

B batch, D width of the encoder, h and w rows and columns of patches.
"""

from __future__ import annotations

from timm.layers import LayerNorm2d
from torch import Tensor, nn

LEVELS = (0.25, 0.5, 1.0, 2.0)
"""Strides of the levels, in patches: 4, 8, 16 and 32 pixels for patches of 16."""


class SimplePyramid(nn.Module):
    """Levels at a quarter, half, one and two patches, each through a 1x1 and a 3x3 convolution with
    LayerNorm over the channels; and one at four patches, every second value of the last.

    Args:
        dim: D, must divide by 4.
        channels: of every level.
    """

    def __init__(self, dim: int, channels: int = 256) -> None:
        super().__init__()
        self.channels = channels
        up = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 2, 2, stride=2),
            LayerNorm2d(dim // 2, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 2, dim // 4, 2, stride=2),
        )
        half = nn.ConvTranspose2d(dim, dim // 2, 2, stride=2)
        self.scales = nn.ModuleList([up, half, nn.Identity(), nn.MaxPool2d(2, 2)])
        widths = (dim // 4, dim // 2, dim, dim)
        self.outputs = nn.ModuleList(_output(width, channels) for width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, D, h, w) -> five maps (B, channels, ...) of 4h, 2h, h, h/2 and h/4 rows."""
        maps = [out(scale(x)) for scale, out in zip(self.scales, self.outputs, strict=True)]
        return [*maps, maps[-1][:, :, ::2, ::2]]


def _output(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False),
        LayerNorm2d(channels, eps=1e-6),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels, eps=1e-6),
    )
