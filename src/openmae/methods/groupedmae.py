"""MAE of channel groups (SatMAE, Cong et al. 2022, arXiv 2207.08051): bands that belong together
are one token a patch; hidden (patch, group) pairs are predicted. `openmae.models.groups` has the
design.

B batch, C channels, G groups, L patches, K kept and M hidden of each group, W = p*q*C values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods.base import Randomness
from openmae.methods.mae import MAE
from openmae.methods.maeparts import ratio_at, spread_out
from openmae.models.groups import columns, group_table, require_whole
from openmae.models.patches import patchify, take
from openmae.models.products import multiply

MASKS = ("independent", "same")


class GroupedMAE(MAE):
    """The paper's MAE over G * L tokens. Its decoder has the same kind of positions, and of its one
    prediction of W values each group reads the rows of its own bands. One group is `MAE`.

    Args:
        channel_groups: channels of each group, counted from 0; together each of them once.
        group_masks: "independent" for each group, each with K kept patches; or "same".
        more: as of `MAE`.

    Raises:
        UsageError: options of `MAE` that are not built for groups.
    """

    def __init__(
        self,
        channel_groups: Sequence[Sequence[int]] = (),
        group_masks: str = "independent",
        **more: Any,
    ) -> None:
        groups = [list(own) for own in channel_groups] or [list(range(more.get("in_chans", 3)))]
        given = {"channel_groups": groups, "group_masks": group_masks}
        _check(more, group_masks)
        args = dict(more.pop("encoder_args", None) or {})
        args |= {"channel_groups": groups} if len(groups) > 1 else {}  # one is a plain ViT
        super().__init__(encoder_args=args, **more)
        require_whole(groups, self.encoder.in_chans)
        self.arguments |= given
        self.group_masks = group_masks
        if not self.predicts.pictures:
            raise UsageError(
                f"target {self.target}: channel groups predict pixels or norm_pixels. Use one of"
                " them"
            )
        decoder: Any = self.decoder
        prefix, width = self.encoder.num_prefix_tokens, decoder.pos_embed.shape[2]
        if len(groups) > 1 and width % 16:
            raise UsageError(f"channel groups need a decoder-dim that divides by 16, not {width}")
        table = group_table(width, self.encoder.grid, prefix, len(groups))
        decoder.pos_embed = nn.Parameter(table[None], requires_grad=False)
        for number, own in enumerate(self.encoder.groups):
            where = columns(own, self.encoder.patch, self.encoder.in_chans)
            self.register_buffer(f"columns_{number}", where, persistent=False)

    @property
    def pictures(self) -> bool:
        """A patch may be seen in one group and hidden in another."""
        return False

    def _columns(self) -> list[Tensor]:
        """Of each group, where its values are in a patch vector."""
        return [getattr(self, f"columns_{g}") for g in range(len(self.encoder.groups))]

    def forward(
        self,
        images: Tensor | Mapping[str, Any],
        rand: Randomness | None = None,
        noise: Tensor | None = None,
        mask_ratio: float | None = None,
        keep: int | None = None,
        full: bool = False,
    ) -> dict[str, Tensor]:
        """As `MAE.forward`. `noise` is (B * G, L), the groups of an image in turn, or (B, L) with
        the same masks. `full=True` adds "pred" (B, L, W) and "mask" (B, G, L), 1 = hidden.
        """
        x = images if isinstance(images, Tensor) else images["image"]
        grid, groups = self._grid(x), len(self.encoder.groups)
        uniform = rand.uniform if rand is not None else lambda _, shape: torch.rand(shape)
        ratio = ratio_at(self, rand, mask_ratio)
        one = self.group_masks == "same" or (noise is not None and len(noise) == len(x))
        masks = 1 if one else groups
        both = self.ids(len(x), uniform, noise, ratio, keep, x.device, grid, masks)
        kept, hidden = (ids.view(len(x), masks, -1).expand(-1, groups, -1) for ids in both)
        run = self._plain_groups if full else self._pruned_groups
        return run(self.encoder.normalize(x), kept, hidden)

    def _flat(self, ids: Tensor) -> Tensor:
        """Patches of each group (B, G, K) -> tokens (B, G * K)."""
        length = self.encoder.grid[0] * self.encoder.grid[1]
        start = torch.arange(ids.shape[1], device=ids.device) * length
        return (ids + start[:, None]).flatten(1)

    def _pruned_groups(self, images: Tensor, kept: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """The training path: only kept tokens are embedded, only hidden ones predicted. Exactly
        `_plain_groups`.
        """
        patches = patchify(images, self.encoder.patch)
        parts = [patches[..., own] for own in self._columns()]  # (B, L, p*q*C_g) each
        at, away = self._flat(kept), self._flat(hidden)
        latent = self._encoded([take(p, kept[:, g]) for g, p in enumerate(parts)], at)
        pred = self.decoder(latent, at, away).unflatten(1, (kept.shape[1], -1))  # (B, G, M, W)
        losses = [
            self._loss(pred[:, g], own, take(parts[g], hidden[:, g]), images, hidden[:, g])
            for g, own in enumerate(self._columns())
        ]
        loss = torch.cat(losses, dim=1)
        out = {"loss": loss.mean(), "sample_loss": loss.detach().mean(dim=1)}
        return spread_out(self, out, latent)

    def _encoded(self, parts: list[Tensor], at: Tensor) -> Tensor:
        """Kept vectors of each group (B, K, p*q*C_g), and their tokens' ids (B, G * K) -> tokens
        (B, P + G * K, D), as `Encoder.encode_kept`.
        """
        encoder = self.encoder
        embed = encoder.vit.patch_embed
        weight = embed.proj.weight.permute(0, 2, 3, 1).flatten(1)  # (D, p*q*C), channel last
        tokens = [
            multiply(part, weight[:, own], embed.proj.bias, encoder.products)
            for part, own in zip(parts, self._columns(), strict=True)
        ]
        return encoder._transform(embed.norm(torch.cat(tokens, dim=1)), at, None, None)

    def _loss(
        self, pred: Tensor, own: Tensor, patches: Tensor, images: Tensor, ids: Tensor
    ) -> Tensor:
        """Predictions (B, M, W) of one group against its own values -> (B, M)."""
        return self.predicts.loss(pred[..., own], self.predicts.values(patches, images, ids))

    def _plain_groups(self, images: Tensor, kept: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Word for word: embed all, keep some, restore, decode all, weight by the mask."""
        at, away = self._flat(kept), self._flat(hidden)
        latent = self.encoder.encode_plain(images, at)
        every = self.decoder.forward_plain(latent, at, away).unflatten(1, (kept.shape[1], -1))
        patches = patchify(images, self.encoder.patch)
        all_ids = torch.arange(patches.shape[1], device=at.device).expand(len(patches), -1)
        pred, losses = torch.empty_like(every[:, 0]), []
        for g, own in enumerate(self._columns()):
            losses.append(self._loss(every[:, g], own, patches[..., own], images, all_ids))
            pred[..., own] = every[:, g][..., own]
        loss = torch.stack(losses, dim=1)  # (B, G, L)
        mask = torch.zeros_like(loss).scatter(2, hidden, 1)
        sample = (loss.detach() * mask).sum((1, 2)) / mask.sum((1, 2))
        out = {"loss": (loss * mask).sum() / mask.sum(), "sample_loss": sample}
        return spread_out(self, out | {"pred": pred, "mask": mask}, latent)


def _check(more: Mapping[str, Any], group_masks: str) -> None:
    if group_masks not in MASKS:
        raise UsageError(f"group_masks {group_masks!r}: should be {' or '.join(MASKS)}")
    usual = {"decoder": "self", "mask_tokens": "decoder", "fusion": False, "masks": 1, "predict": 1}
    odd = [name for name, value in usual.items() if more.get(name, value) != value]
    odd += ["sizes"] if more.get("sizes") else []
    if odd:
        raise UsageError(f"channel groups are not built for {odd[0]}: leave it as it is by default")
    if group_masks == "independent" and more.get("mask") == "grid":
        raise UsageError("a grid mask is the same for every group: group-masks same")
