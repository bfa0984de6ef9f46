"""Which attention a run uses, for each length at which its model attends.

The choice is part of `resolved`, so a run that goes on keeps it to the letter. On CPU and with
`--deterministic` it is a rule and no measurement: the same command then gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from openmae.config.training import TrainingConfig
from openmae.engine.attention import choose, is_sound
from openmae.engine.device import deterministic
from openmae.errors import UsageError
from openmae.methods.base import Base
from openmae.models import products
from openmae.models.attention import BACKENDS, KERNELS, Place, attend, places, use
from openmae.randomness import Rand
from openmae.tasks.kind import Job, Kind, reader_of

EAGER_BELOW = 100
"""Keys below which matrix products beat torch's kernel on CPU, forward and backward."""

_USUAL = 256  # images of a measurement where the micro-batch is not known yet
_IMAGES = 2  # of the forward on the meta device


def built(kind: Kind, job: Job) -> nn.Module:
    """The method of a run with its seeded initial weights, and what was chosen for it."""
    method = kind.build(job.config, job.resolved)
    use_choices(method, job.resolved)
    return method


def use_choices(method: nn.Module, resolved: Mapping[str, Any]) -> None:
    """Tell a method the attention and the products that were chosen. A run that was begun before
    there was a choice has torch's own.
    """
    use(method, resolved.get("attention", {}))
    products.use(method, resolved.get("products", "torch"))


def resolve_attention(
    config: TrainingConfig, method: nn.Module, resolved: Mapping[str, Any]
) -> dict[str, str]:
    """The backend of each place where `method`, on the meta device, attends.

    Raises:
        UsageError: the one that was asked for does not run here.
    """
    device = torch.device(resolved["device"])
    dtype = torch.bfloat16 if resolved["precision"] == "bf16" else torch.float32
    found = where(method)
    if config.attention in ("sdpa", "eager"):
        return dict.fromkeys(found, config.attention)
    if config.attention != "auto":
        for place in found.values():
            _require(config.attention, place, device, dtype)
        return dict.fromkeys(found, config.attention)
    if device.type != "cuda":
        return {name: by_rule(place, device.type) for name, place in found.items()}
    batch = resolved["micro_batch"]
    batch = min(config.batch_size, _USUAL) if batch == "auto" else batch  # chosen after this
    if config.deterministic:
        with deterministic(True):
            return {n: _first_sound(p, batch, device, dtype) for n, p in found.items()}
    chosen: dict[Place, str] = {}
    for place in found.values():
        if place not in chosen:
            size = (place.batch * batch, *place[1:])
            chosen[place], _ = choose(_strictly, candidates(place), size, device, dtype)
    torch.cuda.empty_cache()
    return {name: chosen[place] for name, place in found.items()}


def where(method: nn.Module) -> dict[str, Place]:
    """The places where a method on the meta device attends in training."""
    encoder = reader_of(method)
    images = torch.zeros(_IMAGES, encoder.in_chans, *encoder.image_size, device="meta")
    logits = getattr(method, "logits", None) or getattr(method, "maps", None)
    rand = Rand(0, 0, 0.0, 0, _IMAGES)
    if logits:  # which comes after the draws in a step
        method.draw_paths(_IMAGES, rand, images.device)  # type: ignore[operator]
    views = method.views() if isinstance(method, Base) else None
    batch: Any = images if views is None else method.example(images)  # type: ignore[operator]
    forward = partial(logits, images) if logits else partial(method, batch, rand)
    with torch.no_grad():
        return places(method, _IMAGES, forward)


def by_rule(place: Place, device_type: str) -> str:
    """The backend where nothing is measured: by the number of keys on CPU, else torch's own."""
    return "eager" if device_type == "cpu" and place.keys < EAGER_BELOW else "sdpa"


def candidates(place: Place) -> list[str]:
    """What is measured on a GPU, torch's own first. The two that keep the matrix of scores for the
    backward pass are left out where it is larger than q, k and v: a run must not lose memory to a
    choice that it did not make.
    """
    small = place.queries * place.keys <= (place.queries + 2 * place.keys) * place.head_dim
    return [name for name in BACKENDS if small or name not in ("eager", "math")]


def summary(choices: Mapping[str, str]) -> str:
    """The choice in words: "attention sdpa", or "attention encoder eager, decoder.blocks sdpa"."""
    if len(set(choices.values())) <= 1:
        return f"attention {next(iter(choices.values()), 'sdpa')}"
    return "attention " + ", ".join(f"{name} {backend}" for name, backend in choices.items())


def _strictly(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return attend(q, k, v, backend, strict=True)


def _first_sound(place: Place, batch: int, device: torch.device, dtype: torch.dtype) -> str:
    """A kernel by a fixed order, so that the same machine always takes the same."""
    size = (place.batch * batch, *place[1:])
    order = ("flash", "efficient", "math")
    return next((n for n in order if is_sound(_strictly, n, size, device, dtype)), "eager")


def _require(name: str, place: Place, device: torch.device, dtype: torch.dtype) -> None:
    size = (place.batch * _IMAGES, *place[1:])
    if is_sound(_strictly, name, size, device, dtype):
        return
    sound = [n for n in KERNELS if is_sound(_strictly, n, size, device, dtype)]
    kind = str(dtype).removeprefix("torch.")
    raise UsageError(
        f"--attention {name}: torch has no such kernel that gives right results on {device} in"
        f" {kind}\nfor {place.queries} queries, {place.keys} keys and head width {place.head_dim}."
        f" Use auto, sdpa, eager{''.join(f', {n}' for n in sound)}"
    )
