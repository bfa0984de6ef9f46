"""Averaged weights (exponential moving average), with their counter as a tensor so that it is
saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from openmae.engine.sharding import local


class EMA:
    """An average of every parameter and floating-point buffer of a method.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not
    an average of noise. A step that was skipped changes neither the average nor the counter.
    """

    def __init__(self, method: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = {n: t for n, t in method.state_dict().items() if t.is_floating_point()}
        self._average = {n: t.detach().clone() for n, t in self._live.items()}
        device = next(iter(self._live.values())).device
        self._count = torch.zeros((), dtype=torch.float32, device=device)

    @torch.no_grad()
    def update(self, skipped: Tensor) -> None:
        """Move towards the live weights; `skipped` is 1.0 for a step that did not happen. Never
        reads the device.
        """
        decay = torch.clamp((1 + self._count) / (10 + self._count), max=self.decay)
        weight = (1 - decay) * (1 - skipped)
        average = [local(t) for t in self._average.values()]
        live = [local(t) for t in self._live.values()]
        torch._foreach_lerp_(average, live, [weight] * len(live))
        self._count += 1 - skipped

    def tensors(self) -> dict[str, Tensor]:
        """The averages by name, and "count"."""
        return {**self._average, "count": self._count}

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged weights in place; calling it twice restores both."""
        for name, live in self._live.items():
            kept = live.clone()
            live.copy_(self._average[name])
            self._average[name].copy_(kept)


@contextmanager
def averaged(ema: EMA | None) -> Iterator[None]:
    """Averaged weights in the place of the live ones, where there are some; whatever happens, they
    are put back: what is saved after an error must not be exchanged.
    """
    if ema is not None:
        ema.swap()
    try:
        yield
    finally:
        if ema is not None:
            ema.swap()
