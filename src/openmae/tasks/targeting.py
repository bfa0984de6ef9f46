"""The target of a pretraining run: its arguments, and what it learns of the data at the start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from openmae.config.pretrain import PretrainConfig
from openmae.data.loader import TrainBatches, Transform
from openmae.data.sources import Source
from openmae.errors import OpenMAEError, StorageError, UsageError
from openmae.methods.base import Base
from openmae.models.patches import patchify
from openmae.targets import TARGETS, arguments_of
from openmae.targets.features import EMA
from openmae.targets.pca import PCA
from openmae.targets.tokens import Tokens
from openmae.tasks.namedvalues import named_values
from openmae.weights import Loaded, load_any

IMAGES, PATCHES = 512, 20_000
"""How many images the basis of a PCA target is made of, and at most how many of their patches."""

ROUNDS = 10
"""Of the k-means of tokens that have no tokenizer."""


def target_arguments(
    config: PretrainConfig, resolved: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The keyword arguments of the target's class, from the words of `target_args`, and what
    `target_parts` found when the run began.

    Raises:
        UsageError: a name that the target does not have, or a value of the wrong kind.
    """
    defaults = arguments_of(config.target)
    own = {n: d for n, d in defaults.items() if isinstance(d, bool | int | float | str)}
    words = named_values(config.target_args, own, "--target-args", f"target {config.target}")
    return {**((resolved or {}).get("target_parts") or target_parts(config)), **words}


def target_parts(config: PretrainConfig) -> dict[str, Any]:
    """Of a target that is made from a model: what the model makes of its arguments. A run that goes
    on has it in `resolved` and the weights in its checkpoint: it needs the model no more.
    """
    loaded = target_source(config)
    return {} if loaded is None else dict(TARGETS[config.target].arguments_from(loaded.model))


def target_source(config: PretrainConfig) -> Loaded | None:
    """The model that the target is made from, if there is one.

    Raises:
        UsageError, StorageError: it cannot be loaded.
    """
    argument = TARGETS[config.target].source
    given = dict(word.split("=", 1) for word in config.target_args)
    name = given.get(argument, "")
    if not argument or name in ("", EMA):
        return None
    if TARGETS[config.target] is Tokens and not Path(name).expanduser().exists():
        raise StorageError(
            f"--target-args {argument}={name}: does not exist. Give the run folder of a tokenizer,"
            " from openmae tokenize DATA --patch-size N --out runs/tokenizer"
        )
    try:
        return load_any(name)
    except OpenMAEError as error:
        raise type(error)(f"--target-args {argument}={name}: {error}") from None


def begin_target(config: PretrainConfig, method: Base) -> str | None:
    """Give the target of a new run the weights that it is made from, when its encoder has its own;
    returns what they are.
    """
    target = getattr(method, "predicts", None)
    if target is None:
        return None
    target.begin(method.encoder)
    loaded = target_source(config)
    if loaded is None:
        return None
    target.load_parts(loaded.model)
    return f"target {config.target}: {TARGETS[config.target].source} {loaded.what}"


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
    ready = isinstance(target, Tokens) and target.tokenizer
    if not isinstance(target, PCA | Tokens) or ready:
        return None
    encoder, images = method.encoder, first_images(source, transform, seed)
    with torch.no_grad():
        some = spaced(patchify(encoder.normalize(images), encoder.patch))
    if isinstance(target, Tokens):
        return _first_codes(target, some, len(images))
    target.fit(some)
    share = kept_variance(target, some)
    return (
        f"target pca: {target.width} components of {len(some):,} patches of {len(images)} images"
        f" ({share:.1%} of their variance)"
    )


def first_images(source: Source, transform: Transform, seed: int) -> torch.Tensor:
    """The images (N, C, H, W) of the first positions of a run, with its crops."""
    count = min(IMAGES, max(2, len(source)))
    images: torch.Tensor = TrainBatches(source, transform, seed, count)[0]["image"]
    return images


def spaced(patches: torch.Tensor) -> torch.Tensor:
    """At most 20,000 of patches (N, L, W), evenly spaced: (M, W)."""
    found = patches.flatten(0, 1)
    return found[:: -(-len(found) // PATCHES)]


def _first_codes(target: Tokens, patches: torch.Tensor, images: int) -> str:
    """Codes by a short k-means of patches (N, W): what tokens are made of without a tokenizer.

    Raises:
        UsageError: a kind that must be trained, or fewer different patches than codes.
    """
    from sklearn.cluster import KMeans

    codes, goal = target.width, target.goal(patches)
    count = len(goal.unique(dim=0))
    if target.codebook.kind != "kmeans":
        raise UsageError(
            f"--target-args kind={target.codebook.kind} must be trained first: openmae tokenize"
            " DATA --kind vqvae --out runs/tokenizer, then --target-args tokenizer=runs/tokenizer"
        )
    if count < codes:
        raise UsageError(
            f"target tokens: {codes} codes, but only {count} different patches in {images} images."
            f" Fewer: --target-args codes={max(2, count // 8)}"
        )
    found = KMeans(codes, init="random", n_init=1, max_iter=ROUNDS, random_state=0).fit(goal)
    target.fit(torch.from_numpy(found.cluster_centers_).to(goal.dtype))
    error, fill = found.inertia_ / goal.numel(), float(goal.square().mean())
    return (
        f"target tokens: {codes} codes, k-means of {len(goal):,} patches of {images} images (error"
        f" {error:.3f}, of a mean fill {fill:.3f}). Trained ones: openmae tokenize"
    )


def kept_variance(target: PCA, patches: torch.Tensor) -> float:
    """The share of the variance of patches (N, W) that the coefficients hold."""
    values = target.values(patches, patches, patches).double()
    whole = (patches.double() - target.mean).square().sum()
    return float(values.square().sum() / whole.clamp(min=1e-30))
