"""What fine-tuning, segmentation and detection share: they train on top of a given encoder."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from openmae.config.training import pair
from openmae.data.sources import short_name
from openmae.data.values import Decoding
from openmae.engine.device import resolve_device
from openmae.engine.ema import averaged
from openmae.engine.log import warn
from openmae.engine.loop import Plan, State
from openmae.engine.runfolder import CONFIG, RunFolder
from openmae.errors import StorageError, UsageError
from openmae.models.encoder import method_arguments
from openmae.tasks.arguments import require_order
from openmae.tasks.decoding import decoding, decoding_of
from openmae.tasks.kind import Job, Kind
from openmae.weights import Loaded, load_any
from openmae.weights.start import start_from

M = TypeVar("M", bound=nn.Module)


class FromEncoder(Kind):
    """A kind whose method has an `encoder`, `classes` and `param_groups`, and starts from a model
    that the settings name, or from random weights.
    """

    def __init__(self) -> None:
        self._loaded: Loaded | None = None

    def loaded(self, config: Any) -> Loaded:
        """The model that the run starts from, read once."""
        if self._loaded is None:
            self._loaded = loaded_model(config.model)
        return self._loaded

    def default_out(self, config: Any) -> Path:
        model = Path(config.model).expanduser()
        root = model if (model / CONFIG).is_file() else Path("runs")
        return root / f"{self.task}-{short_name(config.data)}"

    def reads(self, config: Any, resolved: Mapping[str, Any]) -> Decoding:
        """How the values of files are read: as the encoder was taught."""
        if not resolved:
            return decoding_of(self.loaded(config).encoder)
        told = resolved.get("bands", ()), resolved.get("value_range")
        return decoding(resolved["in_chans"], *told, resolved["mean"], resolved["std"])

    def size(self, config: Any) -> tuple[int, int]:
        """Height and width of the images; the encoder's own by default.

        Raises:
            UsageError: they do not divide into whole patches.
        """
        encoder = self.loaded(config).encoder
        size = pair(config.image_size) if config.image_size else encoder.image_size
        require_size(size, encoder.patch)
        return size

    def of_encoder(self, config: Any, size: tuple[int, int]) -> dict[str, Any]:
        """What `resolved` keeps of the encoder: a run that goes on needs its file no more."""
        encoder = self.loaded(config).encoder
        return {
            "model": self.loaded(config).what,
            "in_chans": encoder.in_chans,
            "image_size": list(size),
            "encoder": method_arguments(encoder.create),
            "mean": encoder.mean.flatten().tolist(),
            "std": encoder.std.flatten().tolist(),
            "value_range": encoder.value_range,
            "bands": list(encoder.bands),
        }

    def start(self, config: Any, method: nn.Module) -> str | None:
        if config.random_weights:
            return "random weights (training from scratch)"
        return start_from(method.encoder, config.model, keep_sincos=False)  # type: ignore[arg-type]

    def groups(self, config: Any, method: nn.Module) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = method.param_groups(  # type: ignore[operator]
            config.weight_decay, config.layer_decay
        )
        return made

    def evaluator(
        self, job: Job, folder: RunFolder, plan: Plan, device: torch.device
    ) -> Callable[[State], Mapping[str, Any]]:
        def evaluate(state: State) -> Mapping[str, Any]:
            if state.step == plan.total:
                return {}  # `finish` tests, and logs
            with averaged(state.ema):
                return self.measured(job, state)

        return evaluate

    @abstractmethod
    def measured(self, job: Job, state: State) -> Mapping[str, Any]:
        """What is logged of a test on the way."""

    def about(self, config: Any, resolved: Mapping[str, Any]) -> dict[str, str]:
        return {"classes": json.dumps(resolved["classes"])} | super().about(config, resolved)


def loaded_model(name: str) -> Loaded:
    """A model from any file, with what is to be said of it."""
    loaded = load_any(name)
    for notice in loaded.notices:
        warn(notice)
    return loaded


def open_trained(config: Any, kind: type[M], refusal: str) -> tuple[M, Loaded]:
    """The trained method that a task names as `model`, on its device; `refusal` ends the sentence
    that begins with its name.

    Raises:
        StorageError: it is something else.
    """
    require_order(config.model, config.data)
    device = resolve_device(config.device)
    loaded = loaded_model(config.model)
    if not isinstance(loaded.model, kind):
        raise StorageError(f"{config.model} {refusal}")
    return loaded.model.to(device), loaded


def require_size(size: tuple[int, int], patch: tuple[int, int]) -> None:
    """Raise UsageError unless an image divides into whole patches."""
    for side, step in zip(size, patch, strict=True):
        if side % step or side < step:
            low = max(side // step, 1) * step
            raise UsageError(
                f"--image-size {side} is not a multiple of patch {step}. Nearest: {low} or"
                f" {low + step}"
            )
