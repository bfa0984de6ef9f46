"""Masked autoencoder (He et al. 2021, arXiv 2111.06377): hide patches, encode the visible ones,
predict the hidden ones.

B batch, C channels, L patches, K kept, M = L - K hidden, W = p*q*C values of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from openmae.errors import UsageError, did_you_mean
from openmae.models.crossdecoder import CrossDecoder, Fusion
from openmae.models.decoder import Decoder
from openmae.models.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, build_vit, create_arguments
from openmae.models.masking import MASKS, Mask, choose, for_each, moved, num_kept, some_of
from openmae.models.patches import patchify, take
from openmae.models.positions import GridTables
from openmae.targets import TARGETS


class Randomness(Protocol):
    """The step's randomness; `openmae.randomness.Rand` is the one that training uses."""

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor: ...
    def seed_of(self, purpose: str) -> int: ...


class MAE(nn.Module):
    """The paper's model; the defaults are the paper's.

    Args:
        encoder: a timm name of a plain ViT.
        image_size: pixels, one number or (height, width); must divide by the patch.
        patch_size: pixels, one number or (height, width); the encoder's own by default.
        in_chans: channels, at least 1.
        encoder_args: further arguments of `timm.create_model`, such as embed_dim, depth, num_heads.
        decoder_dim, decoder_depth, decoder_heads: size of the decoder.
        target: "norm_pixels" or "pixels" (a name in `openmae.targets.TARGETS`).
        mask: "random", "block" or "grid" (`openmae.models.masking.MASKS`), or your own function.
        mask_ratio: share of the patches to hide; K = int(L * (1 - mask_ratio)) are kept.
        mean, std: of the channels, on the scale [0, 1]; ImageNet's for 3 channels, 0.5 otherwise.
        value_range, bands: as of `Encoder`.
        decoder: "self" as in the paper, or "cross" (CrossMAE; docs/variants.md has what each of
            these options costs and saves).
        fusion: the cross-attention decoder reads learned sums of all encoder blocks.
        predict: share of the hidden patches to predict in training, with "cross"; the loss is the
            mean over those.
        masks: masks of each image in a training step; the loss is the mean over them.
        sizes: further image sizes, (height, width) each, that it can be trained at.

    Raises:
        UsageError: an unknown name, or sizes that do not fit.
    """

    def __init__(
        self,
        encoder: str = "vit_base_patch16_224",
        image_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] | None = None,
        in_chans: int = 3,
        encoder_args: Mapping[str, Any] | None = None,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        target: str = "norm_pixels",
        mask: str | Mask = "random",
        mask_ratio: float = 0.75,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] = (),
        decoder: str = "self",
        fusion: bool = False,
        predict: float = 1.0,
        masks: int = 1,
        sizes: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        mean = mean or (IMAGENET_MEAN if in_chans == 3 else (0.5,) * in_chans)
        std = std or (IMAGENET_STD if in_chans == 3 else (0.5,) * in_chans)
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.target, self.mask, self.mask_ratio = target, mask, mask_ratio
        self.predict, self.masks = predict, masks
        self.sizes = {(size[0], size[1]) for size in sizes}
        try:
            if in_chans < 1 or len(mean) != in_chans or len(std) != in_chans:
                raise ValueError(f"{in_chans} channels, mean of {len(mean)}, std of {len(std)}")
            create = create_arguments(
                encoder, image_size, patch_size, in_chans, dict(encoder_args or {})
            )
            self.encoder = Encoder(build_vit(create), mean, std, create, value_range, bands)
            self.decoder = self._decoder(decoder, fusion, decoder_dim, decoder_depth, decoder_heads)
            grids = self._check()
            rows = self.decoder.pos_embed.shape[1] - self.encoder.grid[0] * self.encoder.grid[1]
            wide = self.encoder.vit.embed_dim
            self.encoder_tables = GridTables(grids, wide, self.encoder.num_prefix_rows)
            self.decoder_tables = GridTables(grids, decoder_dim, rows)
            self.encoder.initialise()
            self.decoder.initialise()
        except (ValueError, AssertionError) as error:
            raise UsageError(f"this model cannot be built: {error}") from None

    def _decoder(
        self, kind: str, fusion: bool, dim: int, depth: int, heads: int
    ) -> Decoder | CrossDecoder:
        encoder, target = self.encoder, TARGETS[self.target]()
        width = target.width(encoder.patch, encoder.in_chans)
        wide, grid = encoder.vit.embed_dim, encoder.grid
        if kind == "cross":
            fuse = len(encoder.vit.blocks) * fusion
            return CrossDecoder(wide, grid, width, dim, depth, heads, fuse)
        if kind != "self":
            raise ValueError(f"decoder {kind!r}: should be self or cross")
        if fusion or self.predict != 1:
            raise ValueError("fusion and a predict below 1 need decoder='cross'")
        return Decoder(wide, grid, encoder.num_prefix_tokens, width, dim, depth, heads)

    def _check(self) -> list[tuple[int, int]]:
        """The grids of further sizes; ValueError if options, mask, sizes and patch do not fit."""
        (p, q), grids = self.encoder.patch, []
        if not 0 < self.predict <= 1 or self.masks < 1:
            raise ValueError(f"predict {self.predict} must be in (0, 1], masks {self.masks} >= 1")
        if self.masks > 1 and self.mask == "grid":
            raise ValueError("a grid mask is the same every time: masks must be 1")
        for height, wide in (self.encoder.image_size, *self.sizes):
            if height % p or wide % q:
                raise ValueError(f"images of {height}x{wide} do not divide into patches of {p}x{q}")
            with torch.device("cpu"):  # does the mask fit the grid? Values count, also on "meta"
                grids.append((height // p, wide // q))
                self.ids(1, lambda _, shape: torch.zeros(shape), grid=grids[-1])
        return grids[1:]

    @property
    def target(self) -> str:
        """Name of what is predicted; can be set."""
        return self._target

    @target.setter
    def target(self, name: str) -> None:
        if name not in TARGETS:
            raise UsageError(_unknown("target", name, TARGETS))
        self._target = name

    @property
    def mask(self) -> str | Mask:
        """Name of the mask, or the function itself; can be set."""
        return self._mask

    @mask.setter
    def mask(self, mask: str | Mask) -> None:
        if isinstance(mask, str) and mask not in MASKS:
            raise UsageError(_unknown("mask", mask, MASKS))
        self._mask = mask

    def ids(
        self,
        batch: int,
        uniform: Any,
        noise: Tensor | None = None,
        ratio: float | None = None,
        keep: int | None = None,
        device: torch.device | None = None,
        grid: tuple[int, int] | None = None,
        masks: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Kept ids (B * masks, K) and hidden ids (B * masks, M), on the device; the masks of an
        image follow each other.

        `noise` (B * masks, L) replaces the mask's priority: the smallest are kept. Noise is made on
        the CPU and sorted on the device, stably, so that both have the same order.
        """
        ratio = self.mask_ratio if ratio is None else ratio
        name = self.mask if isinstance(self.mask, str) else "custom"
        grid = grid or self.encoder.grid
        length = grid[0] * grid[1]
        if noise is None:
            mask = MASKS[self.mask] if isinstance(self.mask, str) else self.mask
            if keep is not None and name == "grid":
                raise ValueError(
                    "a grid mask keeps one patch of each cell: give mask_ratio, not keep"
                )
            if keep is not None:
                ratio = 1 - (keep + 0.5) / length  # its floor is keep, whatever the rounding
            noise = for_each(lambda own: mask(grid, own, batch, ratio), uniform, masks)
        elif noise.shape != (batch * masks, length):
            raise ValueError(f"noise must be ({batch * masks}, {length}), not {tuple(noise.shape)}")
        if keep is not None and not 0 < keep < length:
            raise ValueError(
                f"keep={keep}: at least one of {length} patches must be kept and one hidden"
            )
        kept = keep if keep is not None else num_kept(length, ratio, name)
        return choose(moved(noise, device), kept)

    def _predicted(self, hidden: Tensor, batch: int, uniform: Any, masks: int) -> Tensor:
        """The hidden ids (B * masks, M) that are predicted: all, or a random share of `predict`."""
        if self.predict == 1 or not self.training:
            return hidden
        count = hidden.shape[1]
        noise = for_each(lambda own: own("predict", (batch, count)), uniform, masks)
        return some_of(hidden, moved(noise, hidden.device), max(1, round(count * self.predict)))

    def forward(
        self,
        images: Tensor | Mapping[str, Any],
        rand: Randomness | None = None,
        noise: Tensor | None = None,
        mask_ratio: float | None = None,
        keep: int | None = None,
        full: bool = False,
    ) -> dict[str, Tensor]:
        """Images (B, C, H, W), uint8 or normalised floats, or a batch with "image" -> {"loss",
        "sample_loss"}.

        `sample_loss` (B,) is detached. `noise` (B, L) decides the mask, the smallest are kept, as
        in the published code; otherwise `rand` does, or torch's global generator. `keep` is a
        number of patches and goes before `mask_ratio`. `full=True` runs the plain formulation and
        adds "pred" (B, L, W) and "mask" (B, L), 1 = hidden; where only a share is predicted, 1 = in
        the loss, and "hidden" (B, L) tells the rest. With `masks` these and `noise` have B * masks
        rows, those of an image in turn. In evaluation mode there is one mask of an image, and every
        hidden patch counts: what is measured does not depend on what training saves.
        """
        x = images if isinstance(images, Tensor) else images["image"]
        grid = self._grid(x)
        masks = self.masks if self.training else 1
        uniform = rand.uniform if rand is not None else lambda _, shape: torch.rand(shape)
        kept, hidden = self.ids(len(x), uniform, noise, mask_ratio, keep, x.device, grid, masks)
        shown = self._predicted(hidden, len(x), uniform, masks)
        run = self._plain if full else self._pruned
        out = run(self.encoder.normalize(x), kept, hidden, shown, grid)
        if masks > 1:
            out["sample_loss"] = out["sample_loss"].unflatten(0, (-1, masks)).mean(dim=1)
        return out

    def _grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of a batch; ValueError for a size that is not trained at."""
        encoder, (height, wide) = self.encoder, images.shape[-2:]
        chans, sizes = encoder.in_chans, (encoder.image_size, *sorted(self.sizes))
        if images.dim() != 4 or images.shape[1] != chans or (height, wide) not in sizes:
            want = " or ".join(f"(B, {chans}, {h}, {w})" for h, w in sizes)
            raise ValueError(f"images must be {want}, not {tuple(images.shape)}")
        return height // encoder.patch[0], wide // encoder.patch[1]

    def _positions(self, grid: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        """Tables of encoder and decoder for a grid that is not their own."""
        if grid == self.encoder.grid:
            return None, None
        if self.encoder.vit.pos_embed.requires_grad:
            raise ValueError("positions that are learned have one size")
        return self.encoder_tables(grid), self.decoder_tables(grid)

    @property
    def _fuse(self) -> Fusion | None:
        return self.decoder.fusion if isinstance(self.decoder, CrossDecoder) else None

    def _pruned(
        self, images: Tensor, kept: Tensor, hidden: Tensor, shown: Tensor, grid: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The training path: only kept patches are embedded, only those of `shown` predicted.
        Exactly `_plain`.
        """
        target, (own, theirs) = TARGETS[self.target](), self._positions(grid)
        patches = patchify(images, self.encoder.patch)
        latent = self.encoder.encode_kept(take(patches, kept), kept, own, self._fuse)
        pred = self.decoder(latent, kept, shown, theirs)
        loss = target.loss(pred, target.values(take(patches, shown)))  # (B, M)
        return {"loss": loss.mean(), "sample_loss": loss.detach().mean(dim=1)}

    def _plain(
        self, images: Tensor, kept: Tensor, hidden: Tensor, shown: Tensor, grid: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The published formulation, word for word: embed all, keep some, restore, decode all,
        weight by the mask.
        """
        target, (own, theirs) = TARGETS[self.target](), self._positions(grid)
        images = images.repeat_interleave(len(kept) // len(images), dim=0)
        latent = self.encoder.encode_plain(images, kept, own, self._fuse)
        pred = self.decoder.forward_plain(latent, kept, hidden, theirs)
        patches = patchify(images, self.encoder.patch)
        none = torch.zeros(patches.shape[:2], device=patches.device, dtype=patches.dtype)
        mask = none.scatter(1, shown, 1)
        loss = target.loss(pred, target.values(patches)) * mask
        sample = loss.detach().sum(dim=1) / mask.sum(dim=1)
        out = {"loss": loss.sum() / mask.sum(), "sample_loss": sample, "pred": pred, "mask": mask}
        return out if shown is hidden else out | {"hidden": none.scatter(1, hidden, 1)}

    def blocks(self) -> list[nn.Module]:
        """The units of per-block compile and sharding."""
        return [*self.encoder.vit.blocks, *self.decoder.blocks]


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> str:
    near = did_you_mean(name, known)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{what} {name!r}: should be one of {', '.join(known)}.{hint}"
