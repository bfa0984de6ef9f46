"""The method of a run at each of the steps that are still saved."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from openmae.engine import checkpoint
from openmae.errors import StorageError, UsageError
from openmae.weights.load import Loaded
from openmae.weights.methodfile import method_from


class Steps:
    """Loads what is asked for and keeps it: besides the model that was loaded already, one other,
    so that memory does not grow with the number of checkpoints.
    """

    def __init__(self, loaded: Loaded, device: torch.device | str = "cpu") -> None:
        self.device, self.newest = device, loaded.model.to(device).eval()
        self.folder: Path | None = None if loaded.run is None else loaded.run / "checkpoints"
        saved = [] if loaded.notices else self.listed()  # a notice: the newest is damaged
        self._first = saved[-1] if saved else None  # the step of `newest`
        self._other: nn.Module | None = None
        self._step: int | None = None
        self._verified: set[Path] = set()

    def listed(self) -> list[int]:
        """The steps, in order; none for a file."""
        found = [] if self.folder is None else checkpoint.listed(self.folder)
        return sorted(checkpoint.step_of(path) for path in found)

    def at(self, step: int | None = None) -> nn.Module:
        """The method at a step, in evaluation mode; the one that was loaded by default.

        Raises:
            UsageError: no such checkpoint.
            StorageError: it is damaged.
        """
        if step is None or step == self._first:
            return self.newest
        if step == self._step and self._other is not None:
            return self._other
        saved = self.listed()
        if self.folder is None or step not in saved:
            steps = ", ".join(map(str, saved)) or "none, it is no run folder"
            raise UsageError(f"--step {step}: there is no such checkpoint. Saved: {steps}")
        path = next(p for p in checkpoint.listed(self.folder) if checkpoint.step_of(p) == step)
        wrong = checkpoint.problem(path, hashes=path not in self._verified)
        if wrong is not None:
            raise StorageError(f"{path} cannot be used: {wrong}")
        self._verified.add(path)
        found = checkpoint.read(path)
        with torch.random.fork_rng(devices=[]):
            other = self._other or method_from(found.state["method"])
        self._step = None  # until all of it is there
        checkpoint.load_weights(found, other)
        self._other, self._step = other.to(self.device).eval(), step
        return self._other
