"""A masked autoencoder in plain PyTorch, written from the paper (He et al. 2021, arXiv 2111.06377):
what one gets without any shortcut.

Every patch is embedded by a convolution, the visible ones are gathered, mask tokens are put where
patches were hidden, the whole grid is decoded, and a mask weighs the loss. Key names are the
published ones, so that weights can be shared.

B batch, L patches, K kept, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openmae.methods.mae import MAE


class Attention(nn.Module):
    """Multi-head self-attention; softmax of all products unless `fused`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.fused = heads, False
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = (q @ k.transpose(-2, -1)) * (dim // self.heads) ** -0.5
            out = scores.softmax(dim=-1) @ v
        return self.proj(out.transpose(1, 2).reshape(batch, length, dim))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """A convolution whose kernel is one patch: (B, C, H, W) -> (B, L, D)."""

    def __init__(self, chans: int, dim: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(chans, dim, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Reference(nn.Module):
    """The sizes of `model`, one of ours; `load` takes weights under the published names."""

    def __init__(self, model: MAE) -> None:
        super().__init__()
        vit, decoder = model.encoder.vit, model.decoder
        dim, width = vit.embed_dim, decoder.embed.out_features
        self.patch, self.ratio = model.encoder.patch, model.mask_ratio
        self.norm_pix = model.target == "norm_pixels"
        rows = vit.pos_embed.shape[1]
        self.patch_embed = PatchEmbed(model.encoder.in_chans, dim, self.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, dim), requires_grad=False)
        self.blocks = nn.ModuleList(_like(block, dim) for block in vit.blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, rows, width), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(_like(block, width) for block in decoder.blocks)
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, decoder.pred.out_features)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take every weight and position."""
        self.load_state_dict(tensors, strict=True)

    def attention(self, fused: bool) -> None:
        """Fused or plain attention, everywhere."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.fused = fused

    def hide(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keep the patches of smallest noise: (B, K, D), mask (B, L) with 1 = hidden, and the order
        that restores the grid.
        """
        batch, length, dim = x.shape
        kept = int(length * (1 - self.ratio))
        order = noise.argsort(dim=1)
        restore = order.argsort(dim=1)
        x = x.gather(1, order[:, :kept, None].repeat(1, 1, dim))
        mask = torch.ones(batch, length, device=x.device)
        mask[:, :kept] = 0
        return x, mask.gather(1, restore), restore

    def decode(self, x: Tensor, restore: Tensor) -> Tensor:
        """Predictions of every patch, (B, L, W)."""
        x = self.decoder_embed(x)
        hidden = restore.shape[1] + 1 - x.shape[1]
        x_ = torch.cat([x[:, 1:], self.mask_token.repeat(len(x), hidden, 1)], dim=1)
        x_ = x_.gather(1, restore[:, :, None].repeat(1, 1, x.shape[2]))
        x = torch.cat([x[:, :1], x_], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def target(self, images: Tensor) -> Tensor:
        """Pixels of each patch, channel last, normalised by its own mean and variance."""
        batch, chans, height, wide = images.shape
        p, q = self.patch
        x = images.reshape(batch, chans, height // p, p, wide // q, q)
        x = torch.einsum("bchpwq->bhwpqc", x).reshape(batch, -1, p * q * chans)
        if self.norm_pix:
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6) ** 0.5
        return x

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """The loss of images (B, C, H, W); `noise` (B, L) decides the mask."""
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        if noise is None:
            noise = torch.rand(x.shape[:2], device=x.device)
        x, mask, restore = self.hide(x, noise)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], dim=1)
        for block in self.blocks:
            x = block(x)
        pred = self.decode(self.norm(x), restore)
        loss = ((pred - self.target(images)) ** 2).mean(dim=-1)
        return (loss * mask).sum() / mask.sum()


def _like(block: nn.Module, dim: int) -> Block:
    attention, mlp = block.attn, block.mlp
    return Block(dim, attention.num_heads, mlp.fc1.out_features)  # type: ignore[union-attr, arg-type]
