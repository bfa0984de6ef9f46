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
from openmae.models.decoder import Decoder
from openmae.models.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, build_vit, create_arguments
from openmae.models.masking import MASKS, Mask, choose, num_kept
from openmae.models.patches import patchify, take
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
    ) -> None:
        super().__init__()
        rgb = in_chans == 3
        mean = mean or (IMAGENET_MEAN if rgb else (0.5,) * in_chans)
        std = std or (IMAGENET_STD if rgb else (0.5,) * in_chans)
        self.arguments = {
            k: v for k, v in locals().items() if k not in ("self", "__class__", "rgb")
        }
        self.target = target
        self.mask = mask
        self.mask_ratio = mask_ratio
        try:
            if in_chans < 1 or len(mean) != in_chans or len(std) != in_chans:
                raise ValueError(f"{in_chans} channels, mean of {len(mean)}, std of {len(std)}")
            create = create_arguments(
                encoder, image_size, patch_size, in_chans, dict(encoder_args or {})
            )
            self.encoder = Encoder(build_vit(create), mean, std, create, value_range, bands)
            (height, wide), (p, q) = self.encoder.image_size, self.encoder.patch
            if height % p or wide % q:
                raise ValueError(f"images of {height}x{wide} do not divide into patches of {p}x{q}")
            width = TARGETS[self.target].width(TARGETS[self.target](), self.encoder.patch, in_chans)
            prefix, grid = self.encoder.num_prefix_tokens, self.encoder.grid
            sizes = (decoder_dim, decoder_depth, decoder_heads)
            self.decoder = Decoder(self.encoder.vit.embed_dim, grid, prefix, width, *sizes)
            with torch.device("cpu"):  # does the mask fit the grid? Values count, also on "meta"
                self.ids(1, lambda _, shape: torch.zeros(shape))
            self.encoder.initialise()
            self.decoder.initialise()
        except (ValueError, AssertionError) as error:
            raise UsageError(f"this model cannot be built: {error}") from None

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
    ) -> tuple[Tensor, Tensor]:
        """Kept ids (B, K) and hidden ids (B, M), on the device.

        `noise` (B, L) replaces the mask's priority: the smallest are kept. Noise is made on the CPU
        and sorted on the device, stably, so that both have the same order.
        """
        ratio = self.mask_ratio if ratio is None else ratio
        grid, name = self.encoder.grid, self.mask if isinstance(self.mask, str) else "custom"
        length = grid[0] * grid[1]
        if noise is None:
            mask = MASKS[self.mask] if isinstance(self.mask, str) else self.mask
            if keep is not None and name == "grid":
                raise ValueError(
                    "a grid mask keeps one patch of each cell: give mask_ratio, not keep"
                )
            if keep is not None:
                ratio = 1 - (keep + 0.5) / length  # its floor is keep, whatever the rounding
            noise = mask(grid, uniform, batch, ratio)
        elif noise.shape != (batch, length):
            raise ValueError(f"noise must be ({batch}, {length}), not {tuple(noise.shape)}")
        if keep is not None and not 0 < keep < length:
            raise ValueError(
                f"keep={keep}: at least one of {length} patches must be kept and one hidden"
            )
        if device is not None and device.type == "cuda" and noise.device.type == "cpu":
            noise = noise.pin_memory()  # else the copy would wait for the device
        noise = noise.to(device, non_blocking=True)
        return choose(noise, keep if keep is not None else num_kept(length, ratio, name))

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
        adds "pred" (B, L, W) and "mask" (B, L), 1 = hidden.
        """
        x = images if isinstance(images, Tensor) else images["image"]
        if x.shape[1:] != (self.encoder.in_chans, *self.encoder.image_size):
            want = (self.encoder.in_chans, *self.encoder.image_size)
            raise ValueError(
                f"images must be (B, {want[0]}, {want[1]}, {want[2]}), not {tuple(x.shape)}"
            )
        uniform = rand.uniform if rand is not None else lambda _, shape: torch.rand(shape)
        kept, hidden = self.ids(len(x), uniform, noise, mask_ratio, keep, x.device)
        x = self.encoder.normalize(x)
        return self._plain(x, kept, hidden) if full else self._pruned(x, kept, hidden)

    def _pruned(self, images: Tensor, kept: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """The training path: only kept patches are embedded, only hidden ones predicted. Exactly
        `_plain`.
        """
        target = TARGETS[self.target]()
        patches = patchify(images, self.encoder.patch)
        latent = self.encoder.encode_kept(take(patches, kept), kept)
        pred = self.decoder(latent, kept, hidden)
        loss = target.loss(pred, target.values(take(patches, hidden)))  # (B, M)
        return {"loss": loss.mean(), "sample_loss": loss.detach().mean(dim=1)}

    def _plain(self, images: Tensor, kept: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """The published formulation, word for word: embed all, keep some, restore, decode all,
        weight by the mask.
        """
        target = TARGETS[self.target]()
        latent = self.encoder.encode_plain(images, kept)
        pred = self.decoder.forward_plain(latent, kept, hidden)
        patches = patchify(images, self.encoder.patch)
        mask = torch.ones(patches.shape[:2], device=patches.device, dtype=patches.dtype).scatter_(
            1, kept, 0
        )
        loss = target.loss(pred, target.values(patches)) * mask
        sample = loss.detach().sum(dim=1) / mask.sum(dim=1)
        return {"loss": loss.sum() / mask.sum(), "sample_loss": sample, "pred": pred, "mask": mask}

    def blocks(self) -> list[nn.Module]:
        """The units of per-block compile and sharding."""
        return [*self.encoder.vit.blocks, *self.decoder.blocks]


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> str:
    near = did_you_mean(name, known)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{what} {name!r}: should be one of {', '.join(known)}.{hint}"
