"""iBOT (Zhou et al. 2021, arXiv 2111.07832): DINO, whose student also says of the hidden patches of
a large crop what the teacher, which sees them, says.

B images of this rank, D width of the encoder, K prototypes, L patches of a large crop, M the most
that are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods.base import Randomness
from openmae.methods.dino import DINO, entropy
from openmae.methods.twoviews import result, wide
from openmae.models.masking import blocks, moved
from openmae.models.masktokens import encode_where
from openmae.models.precision import full_precision


class IBOT(DINO):
    """DINO with a second loss on patches: one head for both, a centre for each. Half of the large
    crops are whole, of the others a share of the patches is hidden in blocks.

    Args:
        out: K, of the head that class tokens and patches share.
        local_crops, global_area, local_area: as of `DINO`.
        patch_temp, patch_temp_start: of the teacher's patches, at the end and the start of the
            warm-up.
        masked_share: share of the large crops that have hidden patches.
        ratio: of the patches that are hidden there, on average.
        ratio_spread: the ratio of each lies within ratio +- this.
        class_weight, patch_weight: of the two losses.
        more: as of `DINO`; no `head_norm`: its statistics would mix crops and patches.

    Raises:
        UsageError: numbers outside their range, or as of `DINO`.
    """

    patch_center: Tensor
    batch_patch_center: Tensor

    def __init__(
        self,
        out: int = 8192,
        local_crops: int = 10,
        global_area: float = 0.25,
        local_area: float = 0.25,
        patch_temp: float = 0.07,
        patch_temp_start: float = 0.04,
        masked_share: float = 0.5,
        ratio: float = 0.3,
        ratio_spread: float = 0.2,
        class_weight: float = 1.0,
        patch_weight: float = 1.0,
        **more: Any,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__", "more")}
        _check(given)
        if more.get("head_norm"):
            raise UsageError("head_norm=true: not of iBOT, whose head takes crops and patches")
        super().__init__(
            out=out, local_crops=local_crops, global_area=global_area, local_area=local_area, **more
        )
        self.arguments |= given
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.encoder.vit.embed_dim))
        self.register_buffer("patch_center", torch.zeros(out))
        self.register_buffer("batch_patch_center", torch.zeros(out), persistent=False)

    def forward(
        self, batch: Mapping[str, Any], rand: Randomness | None = None
    ) -> dict[str, Tensor]:
        """As of `DINO`; the values have both losses, and the entropy of the teacher's patches.

        Raises:
            ValueError: another number of large views, or no `rand`.
        """
        if rand is None:
            raise ValueError("the masks need the randomness of the step")
        crops = self.crops(batch, rand)
        ids, weight = self.hidden(len(crops.large) // 2, rand, crops.large.device)
        self.drop(crops.draws[:, :2])
        length = self.encoder.grid[0] * self.encoder.grid[1]
        away = torch.zeros(len(ids), length, dtype=torch.bool, device=ids.device)
        away = away.scatter(1, ids, weight > 0)
        tokens = encode_where(self.encoder, crops.large, away, self.mask_token)
        with torch.no_grad():
            whole = self.teacher.encoder(crops.large)
            theirs = self.teacher.projector(self.pooled(whole))
            patches = wide(self.teacher.projector(whole[:, self.encoder.num_prefix_tokens :]))
        self.look(self.batch_patch_center, patches)
        own = self.pooled(tokens)
        class_loss, doubt = self.class_loss(crops, own, theirs)
        patch_loss, patch_doubt = self.patch_loss(tokens, patches, ids, weight, crops.progress)
        told = self.arguments
        loss = told["class_weight"] * class_loss + told["patch_weight"] * patch_loss
        return result(loss, own) | {
            "class_loss": class_loss.mean().detach(),
            "patch_loss": patch_loss.mean().detach(),
            "teacher_entropy": doubt,
            "patch_teacher_entropy": patch_doubt,
        }

    def hidden(self, rows: int, rand: Randomness, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of the large crops, one view after the other: ids (2 B, M) of patches, and which of these
        are hidden, 1 or 0 (2 B, M): the first so many. M is the same in all steps.
        """
        told, grid = self.arguments, self.encoder.grid
        length = grid[0] * grid[1]
        draws = rand.uniform("ratio", (rows, 2, 2)).double()
        ratio = told["ratio"] + (2 * draws[..., 1] - 1) * told["ratio_spread"]
        ratio = torch.where(draws[..., 0] < told["masked_share"], ratio, 0.0)
        counts = (ratio * length).round().long()  # (B, 2)
        most = max(1, round((told["ratio"] + told["ratio_spread"]) * length))
        found = []
        for view in range(2):

            def uniform(what: str, shape: tuple[int, ...], view: int = view) -> Tensor:
                return rand.uniform(f"{what}-{view}", shape)

            priority = blocks(grid, uniform, rows, counts[:, view])
            found.append(priority.argsort(dim=1, stable=True, descending=True)[:, :most])
        weight = torch.arange(most) < counts.T.flatten()[:, None]
        return moved(torch.cat(found), device), moved(weight.float(), device)

    def patch_loss(
        self, tokens: Tensor, patches: Tensor, ids: Tensor, weight: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        """From the student's tokens (2 B, P + L, D) of the large crops and what the teacher says of
        all patches (2 B, L, K): the loss (B,), of an image the mean of its two crops, of a crop the
        mean over its hidden patches (0 of none); and the entropy of the teacher at the M.
        """
        own = tokens[:, self.encoder.num_prefix_tokens :]
        said = wide(self.head(own.gather(1, ids[..., None].expand(-1, -1, own.shape[2]))))
        theirs = patches.gather(1, ids[..., None].expand(-1, -1, patches.shape[2]))
        temperature = self.teacher_temperature(progress, "patch_temp")
        with full_precision(said):
            wanted = self.shares(theirs, self.patch_center, temperature, weight)
            each = hidden_cross_entropy(said, wanted, weight, self.arguments["student_temp"])
        return each.unflatten(0, (2, -1)).mean(0), entropy(wanted)

    def after_step(self, rand: Randomness, skipped: Tensor) -> None:
        """Move the teacher and both centres."""
        super().after_step(rand, skipped)
        self.move(self.patch_center, self.batch_patch_center, skipped)


def hidden_cross_entropy(
    student: Tensor, wanted: Tensor, weight: Tensor, temperature: float
) -> Tensor:
    """Logits of the student (N, M, K) against what the teacher says (N, M, K) -> (N,), the mean
    over the patches whose weight (N, M) is 1, and 0 where there are none.
    """
    each = -(wanted * (student / temperature).log_softmax(-1)).sum(-1)
    weight = weight.to(each.dtype)
    return (each * weight).sum(1) / weight.sum(1).clamp(min=1)


def _check(told: Mapping[str, Any]) -> None:
    for name in ("patch_temp", "patch_temp_start"):
        if told[name] <= 0:
            raise UsageError(f"{name}={told[name]}: must be above 0")
    for name in ("class_weight", "patch_weight"):
        if told[name] < 0:
            raise UsageError(f"{name}={told[name]}: must be at least 0")
    if not 0 <= told["masked_share"] <= 1:
        raise UsageError(f"masked_share={told['masked_share']}: should be between 0 and 1")
    ratio, spread = told["ratio"], told["ratio_spread"]
    if not 0 <= spread <= ratio or ratio + spread >= 1 or ratio == 0:
        raise UsageError(
            f"ratio={ratio} and ratio_spread={spread}: their sum should be below 1, ratio above 0"
            " and at least ratio_spread"
        )
