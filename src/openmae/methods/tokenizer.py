"""A tokenizer of patches, which the one loop trains: its codes are what target `tokens` predicts.

B batch, C channels, L patches, V codes, D numbers of a code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods.base import Randomness
from openmae.models.codebook import Codebook, perplexity
from openmae.models.gathering import all_rows, all_sum
from openmae.models.patches import patchify, take

MEMORY = 0.9
"""Of the moving average of how often a code is used."""

UNUSED = 0.1
"""A code is unused below this share of an equal use: after 22 steps in which no patch had it."""

MOVES_UNTIL = 0.8
"""Share of the run in which unused codes are moved; then the others settle."""


class Tokenizer(nn.Module):
    """k-means of patches, or a small VQ-VAE of each patch (`openmae.models.codebook`).

    An unused code is moved to a patch of the step (Dhariwal et al. 2020, arXiv 2005.00341, section
    3.1): each image of the global batch offers one, drawn by its position, and the n-th unused code
    takes the n-th. So ranks and micro-batches change nothing, and all state is in the checkpoint.

    Args:
        patch_size: pixels, one number or (height, width).
        in_chans: channels, at least 1.
        mean, std: of the channels, on the scale [0, 1]; 0.5 by default.
        codes, kind, width, hidden: as of `Codebook`.
        image_size: pixels of the images that it was trained on, one number or (height, width).
        value_range, bands: as of `openmae.models.encoder.Encoder`.

    Raises:
        UsageError: sizes that do not fit, or an unknown kind.
    """

    mean: Tensor
    std: Tensor
    usage: Tensor

    def __init__(
        self,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        codes: int = 512,
        kind: str = "kmeans",
        width: int = 32,
        hidden: int = 128,
        image_size: int | tuple[int, int] = 224,
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        p, q = _pair(patch_size)
        self.patch, self.in_chans, self.image_size = (p, q), in_chans, _pair(image_size)
        self.value_range = None if value_range is None else (value_range[0], value_range[1])
        self.bands = tuple(bands)
        scale = {"mean": mean or (0.5,) * in_chans, "std": std or (0.5,) * in_chans}
        if min(p, q, in_chans) < 1 or any(len(v) != in_chans for v in scale.values()):
            raise UsageError(f"a tokenizer of {in_chans} channels and patches of {p}x{q}, {scale}")
        for name, values in scale.items():
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        try:
            self.codebook = Codebook(p * q * in_chans, codes, kind, width, hidden)
        except ValueError as error:
            raise UsageError(f"this tokenizer cannot be built: {error}") from None
        self.register_buffer("usage", torch.full((codes,), 1 / codes))
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}  # of this step, by first position

    def patches(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), uint8 or normalised floats -> patches (B, L, p*q*C)."""
        if not images.is_floating_point():
            images = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return patchify(images, self.patch)

    def forward(
        self, images: Tensor | Mapping[str, Any], rand: Randomness | None = None
    ) -> dict[str, Tensor]:
        """Images or a batch -> "loss"; detached "sample_loss" (B,), "error" (0-dim), the squared
        error of normalised patches (a mean fill has almost 1), "tokens" (B, L), and of the last
        steps "perplexity" and "codes_used" (0-dim): how many codes their use amounts to, and the
        share of them that is used.
        """
        x = images if isinstance(images, Tensor) else images["image"]
        patches = self.patches(x)
        loss, error, ids = self.codebook(patches)
        if self.training and rand is not None:
            self._note(patches, ids, rand)
        sample = loss.detach().mean(dim=1)
        used = (self.usage * len(self.usage) >= UNUSED).to(sample.dtype).mean()
        told = {"error": error.mean(), "perplexity": perplexity(self.usage), "codes_used": used}
        return {"loss": loss.mean(), "sample_loss": sample, "tokens": ids, **told}

    @torch.no_grad()
    def _note(self, patches: Tensor, ids: Tensor, rand: Any) -> None:
        """Keep what `after_step` needs of a part of the batch: how often each code is used, and
        what one patch of each image offers. A part that is seen again takes the place of the first.
        """
        one = rand.uniform("revive", (len(patches),)).to(patches.device)
        place = (one * patches.shape[1]).long().clamp(max=patches.shape[1] - 1)
        offers = self.codebook.features(take(patches, place[:, None])[:, 0])
        flat = ids.flatten()
        count = torch.zeros(len(self.usage), dtype=torch.long, device=flat.device)
        count.index_add_(0, flat, torch.ones_like(flat))
        before = {first: seen for first, seen in self._seen.items() if first < rand.first}
        self._seen = before | {rand.first: (count, offers.to(self.codebook.codes.dtype))}

    @torch.no_grad()
    def after_step(self, rand: Randomness, skipped: Tensor) -> None:
        """Move unused codes; a step that is skipped moves none."""
        parts = [self._seen[first] for first in sorted(self._seen)]
        self._seen = {}
        if not parts:
            return
        counts = all_sum(torch.stack([count for count, _ in parts]).sum(dim=0))
        offers = all_rows(torch.cat([own for _, own in parts]))
        share = (counts.double() / counts.sum().clamp(min=1)).to(self.usage.dtype)
        usage = torch.lerp(share, self.usage, MEMORY)
        codes, equal = self.codebook.codes, 1 / len(usage)
        unused = (usage < UNUSED * equal) & (rand.progress < MOVES_UNTIL)
        turn = unused.cumsum(0) - 1
        moved = unused & (turn < len(offers)) & ~skipped.bool()
        codes.copy_(torch.where(moved[:, None], offers[turn.clamp(0, len(offers) - 1)], codes))
        usage = torch.where(moved, equal, usage)
        self.usage.copy_(torch.where(skipped.bool(), self.usage, usage))

    def blocks(self) -> list[nn.Module]:
        """The units of per-block compile and sharding: it is too small for any."""
        return []


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
