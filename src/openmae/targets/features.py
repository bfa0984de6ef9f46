"""Features of a teacher as a target: of a frozen one, or of a moving average of the encoder that is
trained (data2vec, Baevski et al. 2022, arXiv 2202.03555).

B batch, C channels, L patches, D width of the teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.models.collapse import spread
from openmae.models.dense import feature_maps
from openmae.models.encoder import Encoder, build_vit
from openmae.models.following import follow
from openmae.models.groups import refuse_groups
from openmae.models.patches import take
from openmae.models.precision import full_precision
from openmae.targets.base import Target

EMA = "ema"
LOSSES = ("smooth_l1", "mse")


class Features(Target):
    """What a teacher makes of the whole image, at the hidden patches: the outputs of its last
    blocks, each layer-normalised without weights, and their mean.

    Args:
        encoder: the one that is trained.
        teacher: "ema", a moving average of the encoder; else the name of a frozen one, whose
            architecture is in the further arguments and whose weights `load_parts` copies.
        layers: how many blocks, the last ones.
        loss: of a patch, the mean over D of "smooth_l1" or "mse".
        beta: where smooth-L1 turns from a parabola to a line; 2 in data2vec for images.
        momentum, momentum_end: of a moving teacher, in a line over the run (the paper's line ends
            before the run does).
        create: `timm.create_model` arguments of a frozen teacher.
        mean, std, value_range: of its input, as of `Encoder`.
        eps: of its norms.

    Raises:
        UsageError: numbers outside their range, or a teacher that does not fit the encoder.
    """

    source: ClassVar[str] = "teacher"
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        encoder: Encoder,
        teacher: str = EMA,
        layers: int = 1,
        loss: str = "smooth_l1",
        beta: float = 2.0,
        momentum: float = 0.999,
        momentum_end: float = 0.9999,
        create: Mapping[str, Any] | None = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        value_range: Sequence[float] | None = None,
        eps: float | None = None,
    ) -> None:
        self.moves = teacher == EMA
        if self.moves:
            made = copy.deepcopy(encoder)
        elif create is None:
            raise UsageError(
                f"target features: the architecture of teacher {teacher} is missing. In Python give"
                " target_args={'teacher': NAME, **Features.arguments_from(openmae.load(NAME))}"
            )
        else:
            made = _built(create, mean, std, value_range, eps)
        _check(encoder, made, layers, loss, beta, (momentum, momentum_end))
        super().__init__(encoder.patch, encoder.in_chans, made.vit.embed_dim)
        self.teacher = made.requires_grad_(False).eval()
        depth = len(made.vit.blocks)
        self.which = tuple(range(depth - layers, depth))
        self.kind, self.beta = loss, beta
        self.momentum, self.momentum_end = momentum, momentum_end
        scale, shift = _conversion(encoder, made)
        self.register_buffer("scale", scale, persistent=False)  # of the two encoders' means
        self.register_buffer("shift", shift, persistent=False)
        self.converts = not self.moves and _reads(encoder) != _reads(made)

    @classmethod
    def of(cls, encoder: Encoder, **arguments: Any) -> Target:
        return cls(encoder, **arguments)

    def train(self, mode: bool = True) -> Features:
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def blocks(self) -> list[nn.Module]:
        return list(self.teacher.vit.blocks)

    def seen(self, images: Tensor) -> Tensor:
        """Images normalised for the encoder (B, C, H, W) -> for the teacher, in its size."""
        if self.converts:
            images = images * self.scale + self.shift
        size = self.teacher.image_size
        if (images.shape[-2], images.shape[-1]) == size:
            return images
        return F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Images normalised for the encoder (B, C, H, W) -> the target of every patch (B, L, D)."""
        maps = feature_maps(self.teacher, self.seen(images), self.which)
        kind = torch.promote_types(maps[0].dtype, torch.float32)
        with full_precision(maps[0]):
            rows = [m.flatten(2).transpose(1, 2).to(kind) for m in maps]
            return torch.stack([F.layer_norm(r, (self.width,)) for r in rows]).mean(dim=0)

    def values(self, patches: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        return take(self.features(images), ids)

    def loss(self, pred: Tensor, values: Tensor) -> Tensor:
        if self.kind == "mse":
            return super().loss(pred, values)
        with full_precision(values):
            near = pred.to(values.dtype)
            error = F.smooth_l1_loss(near, values, reduction="none", beta=self.beta)
            return error.mean(dim=-1)

    def notes(self, values: Tensor) -> dict[str, Tensor]:
        """How far apart the targets of a moving teacher are: near 0 it says the same of all patches
        (see `openmae.models.collapse.spread`).
        """
        return {"target_spread": spread(values.flatten(0, -2))} if self.moves else {}

    @torch.no_grad()
    def begin(self, encoder: Encoder) -> None:
        if self.moves:
            self.teacher.load_state_dict(encoder.state_dict())

    def after_step(self, encoder: Encoder, rand: Any, skipped: Tensor) -> None:
        if self.moves:
            momentum = self.momentum + (self.momentum_end - self.momentum) * rand.progress
            follow(self.teacher, encoder, momentum, skipped)

    @classmethod
    def arguments_from(cls, model: nn.Module) -> Mapping[str, Any]:
        """What makes the architecture of the encoder of a model, weights aside."""
        encoder = _encoder_of(model)
        eps = {m.eps for m in encoder.vit.blocks.modules() if isinstance(m, nn.LayerNorm)}
        return {
            "create": dict(encoder.create),
            "mean": encoder.mean.flatten().tolist(),
            "std": encoder.std.flatten().tolist(),
            "value_range": encoder.value_range and list(encoder.value_range),
            "eps": eps.pop() if len(eps) == 1 else None,
        }

    @torch.no_grad()
    def load_parts(self, model: nn.Module) -> None:
        self.teacher.load_state_dict(_encoder_of(model).state_dict())


def _encoder_of(model: nn.Module) -> Encoder:
    """The encoder that is a model, or that it leaves."""
    if isinstance(model, Encoder):
        return model
    trained = getattr(model, "trained_encoder", None)
    found = getattr(model, "encoder", None) if trained is None else trained()
    if not isinstance(found, Encoder):
        raise UsageError(f"target features: {type(model).__name__} has no encoder to be a teacher")
    return found


def _built(
    create: Mapping[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    value_range: Sequence[float] | None,
    eps: float | None,
) -> Encoder:
    """An encoder with random weights. The random state is left alone: what is trained begins alike
    whatever teaches it.
    """
    with torch.random.fork_rng(devices=[]):
        made = Encoder(build_vit(dict(create)), mean, std, dict(create), value_range)
    for layer in made.vit.modules():
        if isinstance(layer, nn.LayerNorm) and eps is not None:
            layer.eps = eps
    return made


def _reads(encoder: Encoder) -> tuple[Any, ...]:
    """What decides which numbers an encoder sees of an image."""
    means = (encoder.mean, encoder.std)
    return (*([] if m.is_meta else m.flatten().tolist() for m in means), encoder.value_range)


def _conversion(student: Encoder, teacher: Encoder) -> tuple[Tensor, Tensor]:
    """(C, 1, 1) each: images of the student, times the first, plus the second, are those of the
    teacher. Value ranges count where both have one; else their unit scales are taken as alike.
    """
    share, start = 1.0, 0.0
    if student.value_range is not None and teacher.value_range is not None:
        (low, high), (below, above) = student.value_range, teacher.value_range
        share, start = (high - low) / (above - below), (low - below) / (above - below)
    mean, std, theirs, wide = (
        t.detach().double() for t in (student.mean, student.std, teacher.mean, teacher.std)
    )
    return (std * share / wide).float(), ((mean * share + start - theirs) / wide).float()


def _check(
    encoder: Encoder,
    teacher: Encoder,
    layers: int,
    loss: str,
    beta: float,
    momenta: tuple[float, float],
) -> None:
    if loss not in LOSSES:
        raise UsageError(f"target features: loss={loss} should be {' or '.join(LOSSES)}")
    if not beta > 0:
        raise UsageError(f"target features: beta={beta} must be above 0")
    for name, value in zip(("momentum", "momentum_end"), momenta, strict=True):
        if not 0 <= value <= 1:
            raise UsageError(f"target features: {name}={value} should be between 0 and 1")
    refuse_groups(encoder, "target features")
    refuse_groups(teacher, "a teacher")
    depth = len(teacher.vit.blocks)
    if not 1 <= layers <= depth:
        raise UsageError(f"target features: layers={layers}, and the teacher has {depth} blocks")
    if teacher.in_chans != encoder.in_chans:
        raise UsageError(
            f"target features: the teacher reads {teacher.in_chans} channels, this run"
            f" {encoder.in_chans}. Use --channels {teacher.in_chans}"
        )
    if teacher.grid != encoder.grid:
        (a, b), (c, d), (p, q) = teacher.grid, encoder.grid, encoder.patch
        raise UsageError(
            f"target features: the teacher has a grid of {a}x{b} patches, this run {c}x{d}. Use"
            f" --image-size {a * p} {b * q}, or a patch size that gives {a}x{b}"
        )
