"""What the methods that compare two views of an image share: the views, the feature of an image,
and the momentum encoder.

B images, C channels, D width of the encoder.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods.base import Base, Randomness, follow
from openmae.methods.crops import check_pool, pooled
from openmae.models.batchnorm import commit
from openmae.models.collapse import effective_rank, spread
from openmae.models.encoder import Encoder
from openmae.models.masking import choose, moved


class TwoViews(Base):
    """Two views of each image; the augmentation is MoCo v3's and BYOL's by default, with blur and
    solarisation unlike in the two views.

    Args:
        pool: the feature of an image: "cls" token, or "mean" of the patch tokens, after the final
            norm.
        frozen_patch: the patch projection stays random, as in MoCo v3, which found it stabler.
        crop_area: smallest share of the area of a crop.
        flip: whether half of the views are mirrored.
        jitter: largest change of brightness and contrast.
        saturation, hue: largest change of these.
        blur: whether views are blurred: the first always, the second one time in ten.
        solarize: whether the second view is solarised, one time in five.
        patch_drop_rate: share of the patches of each view that no encoder sees, drawn anew each
            time (FLIP, Li et al. 2022, arXiv 2212.00794): an image costs that much less.
        encoder: as of `Base`.

    Raises:
        UsageError: a share that leaves no patch, or the class token of an encoder without one.
    """

    batch_coupled = True

    def __init__(
        self,
        pool: str = "cls",
        frozen_patch: bool = True,
        crop_area: float = 0.08,
        flip: bool = True,
        jitter: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        blur: bool = True,
        solarize: bool = True,
        patch_drop_rate: float = 0.0,
        **encoder: Any,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__", "encoder")}
        super().__init__(**encoder)
        self.arguments |= given
        check_pool(pool, self.encoder)
        self.pool = pool
        patches = math.prod(self.encoder.grid)
        self.seen = int(patches * (1 - patch_drop_rate)) if 0 <= patch_drop_rate < 1 else 0
        if not self.seen:
            raise UsageError(
                f"patch_drop_rate={patch_drop_rate}: should be at least 0 and leave one of"
                f" {patches} patches"
            )
        self.encoder.vit.patch_embed.proj.requires_grad_(not frozen_patch)

    def views(self) -> list[dict[str, Any]] | None:
        """The two views (see `Base.views`)."""
        told = self.arguments
        alike = {
            "crop": (told["crop_area"], 1.0),
            "flip": told["flip"],
            "jitter": (told["jitter"], told["jitter"], told["saturation"], told["hue"]),
        }
        blur, solarize = float(told["blur"]), float(told["solarize"])
        return [
            alike | {"blur_p": blur},
            alike | {"blur_p": 0.1 * blur, "solarize_p": 0.2 * solarize},
        ]

    def patches(self, images: Tensor, rand: Randomness | None) -> Tensor | None:
        """Ids (2 * B, K) of the patches that the encoders see of the views (2 * B, C, H, W), the
        first ones first; None where they see all.

        Raises:
            ValueError: patches are dropped, and there is no `rand`.
        """
        length = math.prod(self.encoder.grid)
        if not self.arguments["patch_drop_rate"]:
            return None
        if rand is None:
            raise ValueError("patch_drop_rate > 0 needs the randomness of the step")
        priority = rand.uniform("patch-drop", (len(images) // 2, 2, length))
        kept, _ = choose(priority.transpose(0, 1).flatten(0, 1), self.seen)
        return moved(kept, images.device)

    def feature(self, encoder: Encoder, images: Tensor, ids: Tensor | None) -> Tensor:
        """Images (N, C, H, W), of which patches ids (N, K) are seen or all -> one feature each
        (N, D).
        """
        tokens = encoder(images) if ids is None else encoder.encode_plain(images, ids)
        return pooled(encoder, tokens, self.pool)

    def after_step(self, rand: Randomness, skipped: Tensor) -> None:
        """Move the statistics of the heads."""
        commit(self, skipped)


def both(batch: Mapping[str, Any] | Tensor) -> Tensor:
    """Two views (B, 2, C, H, W), or a batch with them -> (2 * B, C, H, W), the first ones first.

    Raises:
        ValueError: another number of views.
    """
    images: Tensor = batch["image"] if isinstance(batch, Mapping) else batch
    if images.ndim != 5 or images.shape[1] != 2:
        raise ValueError(f"two views of each image are needed, not {tuple(images.shape)}")
    return images.transpose(0, 1).flatten(0, 1)


def result(sample_loss: Tensor, features: Tensor) -> dict[str, Tensor]:
    """What a method returns: the mean of the losses (B,), these, and how far from collapse the
    features of the encoder (N, D) are.
    """
    return {
        "loss": sample_loss.mean(),
        "sample_loss": sample_loss.detach(),
        "feature_spread": spread(features),
        "effective_rank": effective_rank(features),
    }


def wide(values: Tensor) -> Tensor:
    """At least float32: losses are never computed in less."""
    return values if values.dtype == torch.float64 else values.float()


def momentum_at(start: float, progress: float, end: float = 1.0) -> float:
    """The momentum of a teacher: from `start` to `end` by half a cosine over the run."""
    return end - (end - start) * (1 + math.cos(math.pi * progress)) / 2


class Momentum(nn.Module):
    """A copy of encoder and projector that follows them, without gradients, by a momentum that goes
    from `momentum` to `end` over the run.
    """

    def __init__(
        self, encoder: Encoder, projector: nn.Module, momentum: float, end: float = 1.0
    ) -> None:
        super().__init__()
        for name, told in (("momentum", momentum), ("momentum_end", end)):
            if not 0 <= told <= 1:
                raise UsageError(f"{name}={told}: should be between 0 and 1")
        self.encoder, self.projector = copy.deepcopy(encoder), copy.deepcopy(projector)
        self.momentum, self.end = momentum, end
        self.requires_grad_(False)

    @torch.no_grad()
    def begin(self, encoder: Encoder, projector: nn.Module) -> None:
        """Copy the live ones."""
        self.encoder.load_state_dict(encoder.state_dict())
        self.projector.load_state_dict(projector.state_dict())

    def follow(
        self, encoder: Encoder, projector: nn.Module, rand: Randomness, skipped: Tensor
    ) -> None:
        """Move towards the live ones, unless the step was skipped."""
        momentum = momentum_at(self.momentum, rand.progress, self.end)
        follow(self.encoder, encoder, momentum, skipped)
        follow(self.projector, projector, momentum, skipped)


class Predicting(TwoViews):
    """The image's own projection predicts what the momentum encoder says of the other view, as in
    BYOL and MoCo v3. A subclass makes `projector` and `predictor`, and the copy last.
    """

    projector: nn.Module
    predictor: nn.Module
    momentum: Momentum

    def targets(self, said: Tensor) -> Tensor:
        """What is predicted, of what the momentum encoder says of both views (2 * B, D)."""
        return said

    @abstractmethod
    def losses(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """Predictions of one view and the momentum encoder's words of the other, (B, D) each -> the
        loss of each image (B,).
        """

    def forward(
        self, batch: Mapping[str, Any] | Tensor, rand: Randomness | None = None
    ) -> dict[str, Tensor]:
        """Two views (B, 2, C, H, W) -> the loss and what is logged."""
        images = both(batch)
        ids = self.patches(images, rand)
        features = self.feature(self.encoder, images, ids)
        first, second = (self.predictor(self.projector(f)) for f in features.chunk(2))
        with torch.no_grad():
            theirs = self.feature(self.momentum.encoder, images, ids).chunk(2)
            said = torch.cat([self.momentum.projector(f) for f in theirs])
            of_first, of_second = self.targets(said).chunk(2)
        return result(self.losses(first, of_second) + self.losses(second, of_first), features)

    def begin(self) -> None:
        """The copy is of the weights that the run begins with."""
        self.momentum.begin(self.encoder, self.projector)

    def after_step(self, rand: Randomness, skipped: Tensor) -> None:
        """Move the statistics of the heads, and the copy, which takes them over."""
        super().after_step(rand, skipped)
        self.momentum.follow(self.encoder, self.projector, rand, skipped)
