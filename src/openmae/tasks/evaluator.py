"""What is looked at during pretraining: held-out loss with fixed masks, k-NN, reconstructions.
Never disturbs the run.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from openmae.config.pretrain import PretrainConfig
from openmae.config.training import pair
from openmae.data.loader import EvalBatches, loader
from openmae.data.sources import Source, hash_split
from openmae.data.transforms import EvalTransform
from openmae.engine.ema import averaged
from openmae.engine.features import extract
from openmae.engine.log import warn
from openmae.engine.loop import State
from openmae.engine.runfolder import RunFolder
from openmae.methods.base import Base
from openmae.methods.mae import MAE
from openmae.randomness import Rand
from openmae.report.pictures import Reconstruction, reconstruct, sheet
from openmae.tasks.scoring import knn_accuracy, majority

_KNN_TRAIN, _KNN_TEST = 5000, 1000  # images of a k-NN score on the way
_PICTURES = 6
_FIXED = (
    7919  # the seed of the fixed masks is the run's plus this: never the masks that training draws
)


class Evaluator:
    """Called with the state of a run, returns what to log; averaged weights are used where the run
    keeps them.
    """

    def __init__(
        self,
        source: Source,
        held_out: Source | None,
        config: PretrainConfig,
        folder: RunFolder,
        autocast: AbstractContextManager[Any],
        device: torch.device,
    ) -> None:
        self.held_out, self.config, self.folder = held_out, config, folder
        self.autocast, self.device = autocast, device
        self.transform = EvalTransform(pair(config.image_size))
        shown = held_out if held_out is not None else source
        rows = np.linspace(0, len(shown) - 1, min(_PICTURES, len(shown))).astype(int)
        self.shown = shown.subset(sorted(set(rows.tolist())))
        if config.knn:
            first, second = hash_split(source, 0.2)
            self.knn = thin(first, _KNN_TRAIN), thin(second, _KNN_TEST)

    @torch.no_grad()
    def __call__(self, state: State) -> dict[str, Any]:
        method = state.method
        assert isinstance(method, Base)
        with averaged(state.ema):
            method.eval()
            try:
                return self._measured(method, state.step)
            finally:
                method.train()

    def _measured(self, method: Base, step: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if self.held_out is not None:
            values["val_loss"] = self._loss(method, self.held_out)
        if self.config.knn:
            train, test = (
                extract(method.trained_encoder(), self._batches(s), "mean", self.device)
                for s in self.knn
            )
            values["knn_accuracy"] = knn_accuracy(train, test)
            values["knn_majority"] = majority(train, test)
        if isinstance(method, MAE) and method.pictures:
            self._picture(method, step)
        return values

    def _batches(self, source: Source) -> Any:
        batches = EvalBatches(source, self.transform, min(256, self.config.batch_size))
        return loader(batches, range(len(batches)), 0)

    def _loss(self, method: Base, source: Source) -> float:
        total, count, first = 0.0, 0, 0
        for batch in self._batches(source):
            if batch["image"] is None:
                continue
            rows = len(batch["image"])
            rand = Rand(self.config.seed + _FIXED, 0, 0.0, first, rows)
            with self.autocast:
                loss = method(batch["image"].to(self.device), rand)["sample_loss"]
            total += float(loss.cpu().double().sum())
            count, first = count + rows, first + rows
        return total / max(count, 1)

    def _picture(self, method: MAE, step: int) -> None:
        rows: list[Reconstruction] = []
        for batch in self._batches(self.shown):
            if batch["image"] is not None:
                rand = Rand(self.config.seed + _FIXED, 0, 0.0, 0, len(batch["image"]))
                rows += reconstruct(method, batch["image"].to(self.device), rand, batch["path"])
        try:
            self.folder.pictures.mkdir(exist_ok=True)
            if rows:
                sheet(rows, f"step {step:,}").save(self.folder.pictures / f"step_{step:08d}.png")
        except OSError as error:
            warn(f"no picture at step {step}: {error.strerror or error}")


def thin(source: Source, most: int) -> Source:
    """At most so many of the images, evenly spaced."""
    if len(source) <= most:
        return source
    return source.subset(np.linspace(0, len(source) - 1, most).astype(int).tolist())
