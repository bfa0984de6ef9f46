"""Channel groups (SatMAE, Cong et al. 2022, arXiv 2207.08051): bands that belong together share a
token, others have their own at the same place.

The design is the smallest that is honest. The blocks, the prefix tokens and every name of a tensor
are those of the timm ViT. Two things differ. (1) The patch embedding: group g embeds its own bands
with its own columns of timm's one convolution, so an image gives G * L tokens, those of the first
group first; the bias is shared. (2) The frozen table of positions: 3/4 of the width is the sin-cos
position of the patch, 1/4 the sin-cos code of the group (SatMAE's ViT-L: 768 and 256 of 1024). One
group has nothing to tell apart and the plain table, so that it is the plain model. The groups stand
in the record of the `timm.create_model` call as `channel_groups`, which timm itself refuses: such a
file cannot be taken for a plain ViT by mistake. Ours makes it again, in every task.

B batch, C channels, G groups, L patches of the grid, K kept of a group, P prefix tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.models.positions import resize_positions, sincos_2d

Groups = tuple[tuple[int, ...], ...]
"""The channels of each group, counted from 0."""


class GroupedEmbed(nn.Module):
    """In the place of timm's patch embedding, with its tensors: one token a patch and group."""

    def __init__(self, embed: Any, groups: Groups) -> None:
        super().__init__()
        self.proj, self.norm = embed.proj, embed.norm
        self.img_size, self.patch_size, self.grid_size = (
            embed.img_size,
            embed.patch_size,
            embed.grid_size,
        )
        self.groups, self.num_patches = groups, len(groups) * embed.num_patches

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, G * L, D), without positions."""
        weight, bias, step = self.proj.weight, self.proj.bias, self.proj.stride
        maps = [
            F.conv2d(images[:, list(own)], weight[:, list(own)], bias, step) for own in self.groups
        ]
        return self.norm(torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2))


def group(vit: Any, channel_groups: Sequence[Sequence[int]]) -> None:
    """Give a timm ViT channel groups, in place.

    Raises:
        UsageError: groups that do not hold every channel once, or a width that does not divide.
    """
    groups = tuple(tuple(own) for own in channel_groups)
    channels = vit.patch_embed.proj.weight.shape[1]
    require_whole(groups, channels)
    if len(groups) > 1 and vit.embed_dim % 16:
        raise UsageError(f"channel groups need a width that divides by 16, not {vit.embed_dim}")
    prefix = vit.pos_embed.shape[1] - vit.patch_embed.num_patches
    grid = vit.patch_embed.grid_size
    vit.patch_embed = GroupedEmbed(vit.patch_embed, groups)
    table = group_table(vit.embed_dim, grid, prefix, len(groups))
    vit.pos_embed = nn.Parameter(table[None], requires_grad=False)


def require_whole(groups: Sequence[Sequence[int]], channels: int) -> None:
    """Raise UsageError unless groups hold each channel once."""
    if not all(groups) or sorted(c for own in groups for c in own) != list(range(channels)):
        raise UsageError(
            f"channel groups {told(groups)}: should hold each of {channels} channels once"
        )


def told(groups: Sequence[Sequence[int]]) -> str:
    """Groups as the command line takes them."""
    return " ".join(",".join(str(c + 1) for c in own) for own in groups)


def group_table(dim: int, grid: tuple[int, int], num_prefix: int, groups: int) -> Tensor:
    """The frozen table (num_prefix + G * L, dim); the plain one of a single group."""
    if groups == 1:
        return sincos_2d(dim, grid, num_prefix)
    place = sincos_2d(dim - dim // 4, grid).double()
    omega = 10000.0 ** -(torch.arange(dim // 8, dtype=torch.float64) / (dim // 8))
    angle = torch.arange(groups, dtype=torch.float64)[:, None] * omega
    code = torch.cat([angle.sin(), angle.cos()], dim=1)  # (G, dim / 4)
    rows = torch.cat(
        [place.expand(groups, -1, -1), code[:, None].expand(-1, len(place), -1)], dim=2
    ).flatten(0, 1)
    return torch.cat([rows.new_zeros(num_prefix, dim), rows]).to(torch.get_default_dtype())


def resize_groups(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], num_prefix: int, groups: int
) -> Tensor:
    """`resize_positions` of each group of a table (1, num_prefix + G * L, D)."""
    prefix, parts = table[:, :num_prefix], table[:, num_prefix:].chunk(groups, dim=1)
    return torch.cat([prefix, *(resize_positions(part, old, new) for part in parts)], dim=1)


def columns(own: Sequence[int], patch: tuple[int, int], channels: int) -> Tensor:
    """Where the values of a group are in a patch vector (p*q*C), channel last: (p*q*C_g)."""
    each = torch.arange(patch[0] * patch[1])[:, None] * channels
    return (each + torch.tensor(own)).flatten()


def refuse_groups(encoder: Any, what: str) -> None:
    """Raise UsageError for an encoder of several groups, which has several tokens at a place."""
    if len(encoder.groups) > 1:
        raise UsageError(
            f"{what} needs one token a patch, and this encoder has one for each of"
            f" {len(encoder.groups)} channel groups"
        )
