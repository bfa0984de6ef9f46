"""A whole method on rank 0, where ranks share its weights: to measure with, and to write at the
end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from openmae.engine.checkpoint import weights
from openmae.engine.distributed import World
from openmae.engine.ema import EMA
from openmae.engine.loop import State
from openmae.engine.sharding import Wholes, is_sharded
from openmae.tasks.attention import built
from openmae.tasks.kind import Job, Kind


class Whole:
    """Called with a state on every rank; returns one whose tensors are whole, on rank 0.

    Where every rank has all weights that is the state itself. Otherwise it is a copy that rank 0
    keeps, so it needs the memory for the weights (and their average) beside its own share.
    """

    def __init__(self, kind: Kind, job: Job, world: World) -> None:
        self.kind, self.job, self.world = kind, job, world
        self._copy: State | None = None

    @torch.no_grad()
    def __call__(self, state: State) -> State:
        if not is_sharded(state.method):
            return state
        shares = Wholes(weights(state.method, state.ema))
        if not self.world.main:
            shares.finish()
            return state
        own = self._own(state)
        into = dict(weights(own.method, own.ema))
        for name, tensor in shares:
            into[name].copy_(tensor)
        own.step = state.step
        return own

    def _own(self, state: State) -> State:
        if self._copy is None:
            method = built(self.kind, self.job)
            method.to(next(state.method.parameters()).device)
            ema = EMA(method, state.ema.decay) if state.ema else None
            self._copy = State(method, state.optimizer, ema)
        return self._copy

    def measured(
        self, evaluate: Callable[[State], Mapping[str, Any]]
    ) -> Callable[[State], Mapping[str, Any]]:
        """`evaluate` on rank 0, with whole weights; the others say nothing, and wait in the next
        vote.
        """

        def measure(state: State) -> Mapping[str, Any]:
            shown = self(state)
            return evaluate(shown) if self.world.main else {}

        return measure
