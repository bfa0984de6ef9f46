"""The target of a pretraining run: its arguments, and what it learns of the data at the start."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from openmae.config.pretrain import PretrainConfig
from openmae.data.loader import TrainBatches, Transform
from openmae.data.sources import Source
from openmae.errors import UsageError
from openmae.methods.base import Base
from openmae.models.patches import patchify
from openmae.targets import TARGETS
from openmae.targets.pca import PCA
from openmae.tasks.namedvalues import named_values

IMAGES, PATCHES = 512, 20_000
"""How many images the basis of a PCA target is made of, and at most how many of their patches."""


def target_arguments(config: PretrainConfig) -> dict[str, Any]:
    """The keyword arguments of the target's class, from the words of `target_args`.

    Raises:
        UsageError: a name that the target does not have, or a value of the wrong kind.
    """
    known = inspect.signature(TARGETS[config.target].__init__).parameters
    own = {n: p.default for n, p in known.items() if p.default is not inspect.Parameter.empty}
    return named_values(config.target_args, own, "--target-args", f"target {config.target}")


def require_same_parts(config: PretrainConfig, resolved: Mapping[str, Any]) -> None:
    """Raise UsageError if a continued run's weights do not fit its target: only pixels and
    normalised pixels can take each other's place.
    """
    before, now = resolved.get("predicts", "pixels"), config.target
    if before != now and not (TARGETS[before].pictures and TARGETS[now].pictures):
        raise UsageError(
            f"--target {now}: the run predicts {before}, with other weights. Give another --out,"
            " and --init RUN to start from its encoder"
        )


def learn_target(method: Base, source: Source, transform: Transform, seed: int) -> str | None:
    """Let the target of a new run see the data, where it needs to; returns what it saw.

    The images are those of the first positions of the run, with its crops: every rank makes the
    same. A continued run has the result in its checkpoint.
    """
    target = getattr(method, "predicts", None)
    if not isinstance(target, PCA):
        return None
    images = TrainBatches(source, transform, seed, min(IMAGES, max(2, len(source))))[0]["image"]
    encoder = method.encoder
    with torch.no_grad():
        found = patchify(encoder.normalize(images), encoder.patch).flatten(0, 1)
    some = found[:: -(-len(found) // PATCHES)]
    target.fit(some)
    share = kept_variance(target, some)
    return (
        f"target pca: {target.width} components of {len(some):,} patches of {len(images)} images"
        f" ({share:.1%} of their variance)"
    )


def kept_variance(target: PCA, patches: torch.Tensor) -> float:
    """The share of the variance of patches (N, W) that the coefficients hold."""
    values = target.values(patches, patches, patches).double()
    whole = (patches.double() - target.mean).square().sum()
    return float(values.square().sum() / whole.clamp(min=1e-30))
