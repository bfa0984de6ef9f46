"""The backbone of ViTDet (Li et al. 2022): a plain ViT whose blocks attend inside windows, four of
them globally, with decomposed relative positions as an option. It loads any plain encoder.

B batch, H and W rows and columns of patches, D width, N heads, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.models.attention import attend
from openmae.models.encoder import Encoder

Tables = tuple[Tensor, Tensor]


class WindowAttention(nn.Module):
    """timm's attention, with its own layers and key names, on maps (B, H, W, D); a bias of relative
    positions joins the scores when tables are given.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.backend = "sdpa"  # a name of `openmae.models.attention.BACKENDS`
        self.qkv, self.proj = attention.qkv, attention.proj
        self.q_norm, self.k_norm, self.norm = attention.q_norm, attention.k_norm, attention.norm

    def forward(self, x: Tensor, tables: Tables | None = None) -> Tensor:
        """Every position attends to all of its map."""
        h, w = x.shape[1:3]
        packed = self.qkv(x).reshape(x.shape[0], h * w, 3, self.num_heads, self.head_dim)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if tables is None:
            out = attend(q, k, v, self.backend)
        else:
            bias = relative_bias(q, (h, w), *tables)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        out = self.norm(out.transpose(1, 2).reshape(x.shape[0], h, w, -1))
        return self.proj(out)


class WindowBlock(nn.Module):
    """A timm block, of which it takes over the layers, on maps (B, H, W, D).

    Args:
        block: what it replaces.
        window: side of the windows in patches; None attends globally.
    """

    def __init__(self, block: Block, window: int | None) -> None:
        super().__init__()
        self.window = window
        self.norm1, self.attn = block.norm1, WindowAttention(block.attn)
        self.ls1, self.drop_path1 = block.ls1, block.drop_path1
        self.norm2, self.mlp = block.norm2, block.mlp
        self.ls2, self.drop_path2 = block.ls2, block.drop_path2

    def area(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns that attend to one another; never more than there are."""
        return (
            grid if self.window is None else (min(self.window, grid[0]), min(self.window, grid[1]))
        )

    def forward(self, x: Tensor, tables: Tables | None = None) -> Tensor:
        """A map (B, H, W, D) -> the same. Windows that do not fit are padded with zeros after the
        norm, as published, and those zeros take part.

        Tokens (B, N, D) all attend to one another, as in the block that this was: so the encoder of
        a detector can be asked for features as any other.
        """
        if x.ndim == 3:
            return self._rest(x, self.attn(self.norm1(x)[:, None])[:, 0])
        grid = (x.shape[1], x.shape[2])
        area = self.area(grid)
        mixed = self.norm1(x)
        if area == grid:
            mixed = self.attn(mixed, tables)
        else:
            windows, padded = partition(mixed, area)
            mixed = unpartition(self.attn(windows, tables), area, padded, grid)
        return self._rest(x, mixed)

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(mixed))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class RelativePositions(nn.Module):
    """Two tables a block, (2 * rows - 1, d) and (2 * columns - 1, d), zero at the start. They live
    beside the encoder, whose file so stays a plain one.
    """

    def __init__(self, vit: VisionTransformer, grid: tuple[int, int]) -> None:
        super().__init__()
        areas = [block.area(grid) for block in vit.blocks]
        dim = vit.blocks[0].attn.head_dim
        self.rows = nn.ParameterList(torch.zeros(2 * h - 1, dim) for h, _ in areas)
        self.columns = nn.ParameterList(torch.zeros(2 * w - 1, dim) for _, w in areas)

    def forward(self) -> list[Tables]:
        """The tables of each block."""
        return list(zip(self.rows, self.columns, strict=True))


def install(
    vit: VisionTransformer, window: int = 14, global_blocks: Sequence[int] | None = None
) -> None:
    """Make the blocks of a timm ViT windowed ones, in place; names and weights stay.

    Raises:
        UsageError: blocks of another kind than a plain ViT's.
    """
    chosen = evenly(len(vit.blocks)) if global_blocks is None else tuple(global_blocks)
    wrong = [i for i in chosen if not 0 <= i < len(vit.blocks)]
    if wrong:
        raise UsageError(f"global block {wrong[0]}: this encoder has 0 to {len(vit.blocks) - 1}")
    for i, block in enumerate(vit.blocks):
        plain = type(block) is Block and type(block.attn) is Attention
        if not plain or getattr(block.attn, "gate", None) is not None:
            raise UsageError(f"blocks of {type(block).__name__} have no windowed form here")
        vit.blocks[i] = WindowBlock(block, None if i in chosen else window)


def evenly(depth: int, count: int = 4) -> tuple[int, ...]:
    """The last block of each of `count` equal parts: 2, 5, 8, 11 of twelve, as published."""
    return tuple(sorted({math.ceil(depth * k / count) - 1 for k in range(1, count + 1)}))


def feature_map(
    encoder: Encoder, images: Tensor, relative: RelativePositions | None = None, norm: bool = False
) -> Tensor:
    """Images (B, C, H, W) -> the map after the last block (B, D, rows, columns), of an encoder with
    windowed blocks. No class or register tokens take part, and no final norm unless asked for, as
    published.
    """
    vit = encoder.vit
    x = vit.patch_embed(encoder.normalize(images))
    x = vit.norm_pre(x + vit.pos_embed[:, encoder.num_prefix_rows :])
    x = x.unflatten(1, encoder.grid)
    tables = [None] * len(vit.blocks) if relative is None else relative()
    for block, own in zip(vit.blocks, tables, strict=True):
        x = block(x, own)
    x = vit.norm(x) if norm else x
    return x.permute(0, 3, 1, 2)


def partition(x: Tensor, area: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """(B, H, W, D) -> windows (B * n, *area, D) in row-major order, and the padded H and W."""
    (h, w), (a, b) = x.shape[1:3], area
    x = F.pad(x, (0, 0, 0, -w % b, 0, -h % a))
    padded = (x.shape[1], x.shape[2])
    x = x.unflatten(2, (-1, b)).unflatten(1, (-1, a))
    return x.transpose(2, 3).flatten(0, 2), padded


def unpartition(
    windows: Tensor, area: tuple[int, int], padded: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """The reverse of `partition`: (B * n, *area, D) -> (B, *grid, D), the padding cut off."""
    rows, columns = padded[0] // area[0], padded[1] // area[1]
    x = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, : grid[0], : grid[1]]


def relative_bias(q: Tensor, area: tuple[int, int], rows: Tensor, columns: Tensor) -> Tensor:
    """q (B, N, H*W, d) and tables (2H - 1, d), (2W - 1, d) -> what joins the scores,
    (B, N, H*W, H*W): q . rows[i - k + H - 1] + q . columns[j - l + W - 1] for query (i, j) and key
    (k, l), with q unscaled (MViTv2, as ViTDet uses it).
    """
    h, w = area
    q = q.unflatten(2, area)
    down = torch.einsum("bnhwd,hkd->bnhwk", q, rows[_differences(h, q.device)])
    across = torch.einsum("bnhwd,wkd->bnhwk", q, columns[_differences(w, q.device)])
    return (down[..., :, None] + across[..., None, :]).flatten(4, 5).flatten(2, 3)


def _differences(size: int, device: torch.device) -> Tensor:
    at = torch.arange(size, device=device)
    return at[:, None] - at[None, :] + size - 1
