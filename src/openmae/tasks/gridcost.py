"""What a pretraining run cost: the same count for every method, so that they can be compared."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from openmae.config.pretrain import PretrainConfig
from openmae.engine.device import resolve_device
from openmae.engine.measure import wait
from openmae.randomness import Rand
from openmae.tasks.fitting import random_batch
from openmae.tasks.method import build_method

_PATIENCE = 2.0  # seconds of a step that is only timed
_ROWS = 4  # images of the counted step; some methods need several


def flops_of(config: PretrainConfig, resolved: Mapping[str, Any]) -> tuple[float | None, int, int]:
    """Operations of forward and backward pass for one image (as they are run: what is left out
    is not counted; a multiply-add is 2), parameters of the method and of its encoder. `resolved` as
    in the run's config.yaml. None where the step cannot be counted.
    """
    method: Any = build_method(config, resolved)
    parameters = sum(p.numel() for p in method.parameters())
    encoder = sum(p.numel() for p in method.encoder.parameters())
    batch = random_batch(method, _ROWS, seed=0)
    if hasattr(method, "example"):
        batch |= method.example(batch["image"])
    try:
        with FlopCounterMode(display=False) as count, sdpa_kernel(SDPBackend.MATH):
            out = method.train()(batch, Rand(0, 0, 0.0, 0, _ROWS))
            out["loss"].backward()
    except (RuntimeError, NotImplementedError):
        return None, parameters, encoder
    return count.get_total_flops() / _ROWS, parameters, encoder


def training_seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """Time of all steps that a run logged, without evaluations and saves."""
    timed = [r for r in rows if r.get("images_per_s")]
    if not timed:
        return 0.0
    batch = timed[-1]["images"] / timed[-1]["step"]
    before = [0, *(r["step"] for r in timed)]
    return sum(
        batch * (r["step"] - b) / r["images_per_s"] for r, b in zip(timed, before, strict=False)
    )


def step_seconds(config: PretrainConfig) -> float:
    """Seconds of a training step for one image, by a few steps of random images on the device: a
    rough word on how long a run will take.
    """
    device = resolve_device(config.device)
    half = [0.5] * config.channels
    method: Any = build_method(config, {"mean": half, "std": half})
    method.to(device).train()
    for rows in (_ROWS, min(64, max(_ROWS, config.batch_size))):
        batch = random_batch(method, rows, seed=0)
        if hasattr(method, "example"):
            batch |= method.example(batch["image"])
        batch["image"] = batch["image"].to(device)
        start = time.perf_counter()
        method(batch, Rand(0, 0, 0.0, 0, rows))["loss"].backward()
        wait(device)
        took = (time.perf_counter() - start) / rows
        if took * 64 > _PATIENCE:
            break
    return took
