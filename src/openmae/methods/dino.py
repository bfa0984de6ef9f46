"""DINO (Caron et al. 2021, arXiv 2104.14294): the student says of each crop of an image what the
teacher, a moving average of it, says of the other, large crops.

B images of this rank, V views, D width of the encoder, K prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods.base import Base, Randomness
from openmae.methods.crops import Crops, check_pool, pooled, resized
from openmae.methods.sinkhorn import sinkhorn
from openmae.methods.twoviews import Momentum, result, wide
from openmae.models.batchnorm import commit
from openmae.models.dinohead import DinoHead
from openmae.models.droppath import install
from openmae.models.encoder import Encoder
from openmae.models.gathering import all_mean
from openmae.models.positions import GridTables
from openmae.models.precision import full_precision

CENTERINGS = ("mean", "sinkhorn")


class DINO(Base):
    """Student and teacher on two large crops, the student also on small ones. `warmup` and `freeze`
    are shares of the run: published as epochs, here of 100.

    Args:
        pool: the feature of a crop: "cls" token as published, or "mean" of the patch tokens, after
            the final norm.
        out, hidden, bottleneck, head_layers, norm_last_layer, head_norm: of the head (see
            `DinoHead`).
        student_temp: temperature of the student.
        teacher_temp, teacher_temp_start: of the teacher, at the end and the start of its warm-up.
        warmup: share of the run in which that temperature rises, in a line.
        momentum, momentum_end: of the teacher at the start and the end, half a cosine between them.
            It rises to 1 as published; in a run of few steps that leaves the teacher behind.
        center_momentum: of the centre that is taken from what the teacher says.
        centering: "mean" takes that centre away, as published; "sinkhorn" shares the prototypes out
            equally over each global batch instead (see `sinkhorn`), and the centre is not used.
        freeze: share of the run in which the last layer of the head stays.
        drop_path: stochastic depth of the student.
        local_crops: number of small crops; 0: none.
        local_size: their height and width in pixels; 0: 3/7 of the image's, in whole patches.
        global_area, local_area: smallest share of the area of a large crop, and largest of a small.
        jitter, saturation, hue: largest changes of colour.
        flip, blur, solarize: whether views are.
        encoder: as of `Base`.

    Raises:
        UsageError: numbers outside their range, or the class token of an encoder without one.
    """

    batch_coupled = True
    center: Tensor
    batch_center: Tensor

    def __init__(
        self,
        out: int = 65536,
        hidden: int = 2048,
        bottleneck: int = 256,
        head_layers: int = 3,
        norm_last_layer: bool = True,
        head_norm: bool = False,
        pool: str = "cls",
        student_temp: float = 0.1,
        teacher_temp: float = 0.07,
        teacher_temp_start: float = 0.04,
        warmup: float = 0.3,
        momentum: float = 0.996,
        momentum_end: float = 1.0,
        center_momentum: float = 0.9,
        centering: str = "mean",
        freeze: float = 0.01,
        drop_path: float = 0.1,
        local_crops: int = 8,
        local_size: int = 0,
        global_area: float = 0.4,
        local_area: float = 0.4,
        jitter: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        flip: bool = True,
        blur: bool = True,
        solarize: bool = True,
        **encoder: Any,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__", "encoder")}
        super().__init__(**encoder)
        self.arguments |= given
        _check(given, self.encoder)
        self.local_size = self._local()
        sizes = (self.encoder.vit.embed_dim, hidden, bottleneck, out, head_layers)
        self.head = DinoHead(*sizes, norm_last_layer=norm_last_layer, norm=head_norm)
        self.register_buffer("center", torch.zeros(out))
        # what this step's batch says; the centre moves only once the step is known to be sound
        self.register_buffer("batch_center", torch.zeros(out), persistent=False)
        (h, w), (p, q) = self.local_size, self.encoder.patch
        self.tables = GridTables(
            [(h // p, w // q)] if local_crops else [],
            self.encoder.vit.embed_dim,
            self.encoder.num_prefix_rows,
        )
        self.encoder.initialise()
        # before its paths may drop
        self.teacher = Momentum(self.encoder, self.head, momentum, momentum_end)
        self.paths = install(self.encoder.vit, drop_path) if drop_path else []

    def _local(self) -> tuple[int, int]:
        told: int = self.arguments["local_size"]
        (height, width), (p, q) = self.encoder.image_size, self.encoder.patch
        if told:
            fits = not (told % p or told % q) and 0 < told <= min(height, width)
            if self.arguments["local_crops"] and (not fits or (told, told) == (height, width)):
                raise UsageError(
                    f"local_size={told}: must divide by the patch ({p} x {q}) and be smaller than"
                    f" the image ({height} x {width})"
                )
            return told, told
        small = (max(1, round(height / p * 3 / 7)) * p, max(1, round(width / q * 3 / 7)) * q)
        if self.arguments["local_crops"] and small == (height, width):
            raise UsageError("an image of one patch has no small crops: local_crops=0")
        return small

    def views(self) -> list[dict[str, Any]] | None:
        """Two large views and the small ones (see `Base.views`)."""
        told = self.arguments
        alike = {
            "flip": told["flip"],
            "jitter": (told["jitter"], told["jitter"], told["saturation"], told["hue"]),
        }
        blur, solarize = float(told["blur"]), float(told["solarize"])
        large = alike | {"crop": (told["global_area"], 1.0)}
        small = alike | {"crop": (0.05, told["local_area"]), "size": self.local_size}
        return [
            large | {"blur_p": blur},
            large | {"blur_p": 0.1 * blur, "solarize_p": 0.2 * solarize},
            *[small | {"blur_p": 0.5 * blur}] * told["local_crops"],
        ]

    def trained_encoder(self) -> Encoder:
        """The teacher's, which is better all along the run (section 5.2 of the paper)."""
        return self.teacher.encoder

    def blocks(self) -> list[nn.Module]:
        """Those of student and teacher."""
        return [*self.encoder.vit.blocks, *self.teacher.encoder.vit.blocks]

    def forward(
        self, batch: Mapping[str, Any], rand: Randomness | None = None
    ) -> dict[str, Tensor]:
        """Large views "image" (B, 2, C, H, W), and small ones "local" (B, V - 2, C, h, w) if there
        are any -> the loss and what is logged.

        Raises:
            ValueError: another number of large views, or drop path without `rand`.
        """
        crops = self.crops(batch, rand)
        self.drop(crops.draws[:, :2])
        own = self.pooled(self.encoder(crops.large))
        with torch.no_grad():
            theirs = self.teacher.projector(self.pooled(self.teacher.encoder(crops.large)))
        loss, doubt = self.class_loss(crops, own, theirs)
        return result(loss, own) | {"teacher_entropy": doubt}

    def pooled(self, tokens: Tensor) -> Tensor:
        """Tokens (N, P + L, D) -> features (N, D), as `pool` says."""
        return pooled(self.encoder, tokens, self.arguments["pool"])

    def crops(self, batch: Mapping[str, Any], rand: Randomness | None) -> Crops:
        """The crops of a batch; the last layer is frozen or not from here on."""
        images, local = batch["image"], batch.get("local")
        if images.ndim != 5 or images.shape[1] != 2:
            raise ValueError(f"two large views are needed, not {tuple(images.shape)}")
        progress = 0.0 if rand is None else rand.progress
        self.head.frozen = progress < self.arguments["freeze"]
        views = 2 + (0 if local is None else local.shape[1])
        return Crops(
            images.transpose(0, 1).flatten(0, 1),
            None if local is None else local.transpose(0, 1).flatten(0, 1),
            views,
            self._draws(len(images), views, rand, images.device),
            progress,
        )

    def class_loss(self, crops: Crops, own: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """From the student's features (2 B, D) of the large crops and what the teacher says of
        them (2 B, K): the loss (B,) of all crops, and the entropy of the teacher (0-dim).
        """
        logits = [self.head(own)]
        if crops.small is not None:
            self.drop(crops.draws[:, 2:])
            small = resized(self.encoder, crops.small, self.tables)
            logits.append(self.head(self.pooled(small)))
        said = wide(torch.cat(logits)).unflatten(0, (crops.views, -1))
        theirs = wide(theirs).unflatten(0, (2, -1))
        self.look(self.batch_center, theirs)
        temperature = self.teacher_temperature(crops.progress)
        with full_precision(said):
            wanted = self.shares(theirs, self.center, temperature)
            loss = cross_entropy(said, wanted, self.arguments["student_temp"])
        return loss, entropy(wanted)

    def shares(
        self, theirs: Tensor, center: Tensor, temperature: float, weight: Tensor | None = None
    ) -> Tensor:
        """What the teacher says (..., K) as shares of the prototypes, by `centering`; rows whose
        `weight` (...) is 0 take no part in it.
        """
        if self.arguments["centering"] == "sinkhorn":
            told = None if weight is None else weight.flatten()
            return sinkhorn(theirs.flatten(0, -2), temperature, told).view_as(theirs)
        return ((theirs - center) / temperature).softmax(-1)

    def teacher_temperature(self, progress: float, of: str = "teacher_temp") -> float:
        """At a share of the run; `of` is the argument that holds its end."""
        told = self.arguments
        start, end = told[f"{of}_start"], told[of]
        share = min(1.0, progress / told["warmup"]) if told["warmup"] else 1.0
        return float(start + (end - start) * share)

    def begin(self) -> None:
        """The teacher is a copy of the weights that the run begins with."""
        self.teacher.begin(self.encoder, self.head)

    def after_step(self, rand: Randomness, skipped: Tensor) -> None:
        """Move the statistics of the head, the teacher, which takes them over, and the centre."""
        commit(self.head, skipped)
        self.teacher.follow(self.encoder, self.head, rand, skipped)
        self.move(self.center, self.batch_center, skipped)

    @torch.no_grad()
    def look(self, batch_center: Tensor, said: Tensor) -> None:
        """Keep the mean of what the teacher says (., ., K), if there is a centre to move there."""
        if self.arguments["centering"] == "mean":
            batch_center.copy_(all_mean(said.mean((0, 1))))

    def move(self, center: Tensor, towards: Tensor, skipped: Tensor) -> None:
        """Move a centre (K,), unless the step was skipped."""
        moved = torch.lerp(center, towards, 1 - self.arguments["center_momentum"])
        center.copy_(torch.where(skipped.bool(), center, moved))

    def drop(self, draws: Tensor) -> None:
        """Which paths the student drops in its next crops, by their draws (B, V, paths)."""
        for at, path in enumerate(self.paths):
            path.draw = draws[:, :, at].T.flatten() if self.training else None

    def _draws(
        self, rows: int, views: int, rand: Randomness | None, device: torch.device
    ) -> Tensor:
        if not (self.paths and self.training):
            return torch.empty(rows, views, len(self.paths))
        if rand is None:
            raise ValueError("drop_path > 0 needs the randomness of the step")
        return rand.uniform("drop-path", (rows, views, len(self.paths))).to(device)


def entropy(shares: Tensor) -> Tensor:
    """The mean entropy of distributions (..., K), 0-dim."""
    return torch.special.entr(shares).sum(-1).mean()


def cross_entropy(student: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Logits of the student (V, B, K), V >= 2, against what the teacher says (2, B, K) of the first
    two views: (B,), the mean over all pairs of different views.
    """
    log = (student / temperature).log_softmax(-1)
    others = log.sum(0) - log[:2]  # (2, B, K): all views but the teacher's own
    return -(wanted * others).sum((0, 2)) / (2 * len(log) - 2)


def _check(told: Mapping[str, Any], encoder: Encoder) -> None:
    check_pool(told["pool"], encoder)
    if told["centering"] not in CENTERINGS:
        raise UsageError(f"centering={told['centering']}: should be mean or sinkhorn")
    for name in ("student_temp", "teacher_temp", "teacher_temp_start"):
        if told[name] <= 0:
            raise UsageError(f"{name}={told[name]}: must be above 0")
    for name in ("out", "hidden", "bottleneck", "head_layers"):
        if told[name] < 1:
            raise UsageError(f"{name}={told[name]}: must be at least 1")
    for name in ("warmup", "freeze", "center_momentum", "drop_path"):
        if not 0 <= told[name] <= 1 or (name == "drop_path" and told[name] == 1):
            raise UsageError(f"{name}={told[name]}: should be between 0 and 1")
    if told["local_crops"] < 0 or not 0.05 < told["local_area"] <= 1:
        raise UsageError(
            f"local_crops={told['local_crops']} and local_area={told['local_area']}: should be at"
            " least 0, and above 0.05 up to 1"
        )
