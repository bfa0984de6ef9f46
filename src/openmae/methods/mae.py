"""Masked autoencoder (He et al. 2021, arXiv 2111.06377): hide patches, encode the visible ones,
predict the hidden ones.

B batch, C channels, L patches, K kept, M = L - K hidden, W = p*q*C values of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods import maeparts
from openmae.methods.base import Base, Randomness
from openmae.methods.maeparts import fusion_of, mask_of, ratio_at, spread_out, unknown
from openmae.models.initialise import token
from openmae.models.masking import MASKS, Mask, choose, for_each, moved, num_kept, some_of
from openmae.models.masktokens import encode_masked, encode_masked_plain
from openmae.models.patches import patchify, take
from openmae.targets import TARGETS, Target, target_of


class MAE(Base):
    """The paper's model; the defaults are the paper's.

    Args:
        encoder, image_size, patch_size, in_chans, encoder_args: as of `Base`.
        decoder_dim, decoder_depth, decoder_heads: size of the decoder.
        target: "norm_pixels" or "pixels" (a name in `openmae.targets.TARGETS`).
        mask: a name in `openmae.models.masking.MASKS`, or your own function.
        mask_ratio: share of the patches to hide; K = int(L * (1 - mask_ratio)) are kept.
        mean, std, value_range, bands: as of `Base`.
        decoder: "self" as in the paper, "cross" (CrossMAE), "linear" or "mlp" (docs/variants.md
            has what each of these options costs and saves).
        fusion: the decoder reads learned sums of all encoder blocks.
        predict: share of the hidden patches to predict in training, with "cross"; the loss is the
            mean over those.
        masks: masks of each image in a training step; the loss is the mean over them.
        sizes: further image sizes, (height, width) each, that it can be trained at.
        target_args: further arguments of the target.
        mask_unit: side of the units of mask "unit", in patches.
        mask_ratio_end: the ratio goes linearly from `mask_ratio` to this over a run.
        mask_tokens: "decoder" as in the paper, or "encoder".
        uniformity: weight of the uniformity term (U-MAE); couples the images of a batch.
    """

    masked = True

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
        target_args: Mapping[str, Any] | None = None,
        mask_unit: int = 4,
        mask_ratio_end: float | None = None,
        mask_tokens: str = "decoder",
        uniformity: float = 0.0,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        shape = (image_size, patch_size, in_chans, encoder_args)
        super().__init__(encoder, *shape, mean, std, value_range, bands)
        self.arguments = {**given, **self.arguments}
        self.mask, self.mask_ratio = mask, mask_ratio
        self.predict, self.masks = predict, masks
        self.mask_unit, self.mask_ratio_end = mask_unit, mask_ratio_end
        self.uniformity, self.batch_coupled = uniformity, uniformity > 0
        self.sizes = {(size[0], size[1]) for size in sizes}
        self._aim(target, **(target_args or {}))
        try:
            if mask_tokens not in ("decoder", "encoder"):
                raise ValueError(f"mask_tokens {mask_tokens!r}: should be decoder or encoder")
            inside, size = mask_tokens == "encoder", (decoder_dim, decoder_depth, decoder_heads)
            out = self.predicts.width
            self.decoder = maeparts.decoder_of(self.encoder, out, decoder, inside, fusion, size)
            grids = maeparts.grids_of(self, decoder)
            self.encoder_tables, self.decoder_tables = maeparts.tables_of(self, grids)
            self.encoder.initialise()
            self.decoder.initialise()
            wide = self.encoder.vit.embed_dim
            self.mask_token = nn.Parameter(torch.zeros(1, 1, wide)) if inside else None
            if self.mask_token is not None:
                token(self.mask_token)
            self.predicts.begin(self.encoder)
        except (ValueError, AssertionError) as error:
            raise UsageError(f"this model cannot be built: {error}") from None

    @property
    def target(self) -> str:
        """Name of what is predicted; can be set."""
        return self._target

    @target.setter
    def target(self, name: str) -> None:
        width = self.predicts.width
        if name != self._target:
            self._aim(name)
            self.predicts.begin(self.encoder)
        if self.predicts.width != width:
            raise UsageError(
                f"target {name} has {self.predicts.width} numbers a patch, not {width}"
            )

    def _aim(self, name: str, **arguments: Any) -> None:
        """Make the target of a name."""
        if name not in TARGETS:
            raise UsageError(unknown("target", name, TARGETS))
        self.predicts: Target = target_of(name, self.encoder, **arguments)
        self._target = name

    @property
    def pictures(self) -> bool:
        """Whether predictions can be shown."""
        return self.predicts.pictures

    @property
    def mask(self) -> str | Mask:
        """Name of the mask, or the function itself; can be set."""
        return self._mask

    @mask.setter
    def mask(self, mask: str | Mask) -> None:
        if isinstance(mask, str) and mask not in MASKS:
            raise UsageError(unknown("mask", mask, MASKS))
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
            mask = mask_of(self.mask, self.mask_unit)
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
        mask_ratio = ratio_at(self, rand, mask_ratio)
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

    def _pruned(
        self, images: Tensor, kept: Tensor, hidden: Tensor, shown: Tensor, grid: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The training path: only kept patches are embedded, only those of `shown` predicted.
        Exactly `_plain`.
        """
        own, theirs = self._positions(grid)
        patches = patchify(images, self.encoder.patch)
        seen, fuse = take(patches, kept), fusion_of(self.decoder)
        if self.mask_token is None:
            latent = self.encoder.encode_kept(seen, kept, own, fuse)
        else:
            latent = encode_masked(self.encoder, seen, kept, hidden, self.mask_token, own)
        pred = self.decoder(latent, kept, shown, theirs)
        values = self.predicts.values(take(patches, shown), images, shown)
        loss = self.predicts.loss(pred, values)  # (B, M)
        out = {"loss": loss.mean(), "sample_loss": loss.detach().mean(dim=1)}
        return spread_out(self, out | self.predicts.notes(values), latent)

    def _plain(
        self, images: Tensor, kept: Tensor, hidden: Tensor, shown: Tensor, grid: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The published formulation, word for word: embed all, keep some, restore, decode all,
        weight by the mask.
        """
        own, theirs = self._positions(grid)
        images = images.repeat_interleave(len(kept) // len(images), dim=0)
        if self.mask_token is None:
            latent = self.encoder.encode_plain(images, kept, own, fusion_of(self.decoder))
        else:
            token = self.mask_token
            latent = encode_masked_plain(self.encoder, images, kept, hidden, token, own)
        pred = self.decoder.forward_plain(latent, kept, hidden, theirs)
        patches = patchify(images, self.encoder.patch)
        none = torch.zeros(patches.shape[:2], device=patches.device, dtype=patches.dtype)
        mask = none.scatter(1, shown, 1)
        every = torch.arange(patches.shape[1], device=patches.device).expand(len(patches), -1)
        loss = self.predicts.loss(pred, self.predicts.values(patches, images, every)) * mask
        sample = loss.detach().sum(dim=1) / mask.sum(dim=1)
        out = {"loss": loss.sum() / mask.sum(), "sample_loss": sample, "pred": pred, "mask": mask}
        out = spread_out(self, out, latent)
        return out if shown is hidden else out | {"hidden": none.scatter(1, hidden, 1)}

    def blocks(self) -> list[nn.Module]:
        """The units of per-block compile and sharding."""
        return [*self.encoder.vit.blocks, *self.decoder.blocks, *self.predicts.blocks()]

    def after_step(self, rand: Randomness, skipped: Tensor) -> None:
        self.predicts.after_step(self.encoder, rand, skipped)
