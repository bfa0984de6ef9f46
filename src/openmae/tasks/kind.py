"""What differs between the tasks that train: pretraining and fine-tuning are kinds of one run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from openmae.config.training import TrainingConfig
from openmae.data.check import Scan
from openmae.data.loader import Transform
from openmae.data.sources import Source
from openmae.data.values import Decoding
from openmae.engine.loop import Plan, State
from openmae.engine.runfolder import RunFolder


@dataclass
class Job:
    """A run that is ready to start: settings, what was chosen at run time, data."""

    config: Any  # the settings model of the task
    resolved: dict[str, Any]
    source: Source
    held_out: Source | None
    found: Scan | None
    changed: bool = False


def reader_of(method: Any) -> Any:
    """What of a method tells which images it takes (in_chans, image_size, value_range): its
    encoder, or itself where it has none.
    """
    return getattr(method, "encoder", method)


class Kind(ABC):
    """The parts of a training task that `tasks.training.train_run` puts together.

    To add a task that trains, subclass this in its file and call `train_run` from its `run`.
    """

    task: ClassVar[str]
    settings: ClassVar[type[TrainingConfig]]
    architecture: ClassVar[tuple[str, ...]] = ("model",)
    """Settings that make another network: a continued run cannot change them."""

    @abstractmethod
    def default_out(self, config: Any) -> Path:
        """The run folder when none is named."""

    @abstractmethod
    def default_recipe(self, config: Any, device_type: str) -> str:
        """The recipe of a run that names none."""

    def require(self, config: Any, typed: Collection[str]) -> None:
        """Raise UsageError if something was typed that means nothing to such a run."""
        return None

    def completed(self, config: Any) -> Any:
        """The settings of a new run, with the defaults that depend on others of them."""
        return config

    @abstractmethod
    def open_data(self, config: Any, resolved: Mapping[str, Any]) -> tuple[Source, Source | None]:
        """The images to train on and those held out; `resolved` is empty for a new run."""

    @abstractmethod
    def look(self, config: Any, source: Source) -> Scan:
        """A look at the images before the run, refusing what does not fit."""

    def resolve(self, config: Any, source: Source, found: Scan) -> dict[str, Any]:
        """What this task chooses at run time, beyond what every run does."""
        return {}

    def decoding(self, config: Any, resolved: Mapping[str, Any]) -> Decoding | None:
        """How the values of files are read, once the data were looked at; None: as `open_data`
        said.
        """
        return None

    @abstractmethod
    def recheck(self, config: Any, resolved: Mapping[str, Any], source: Source) -> None:
        """Refuse what does not fit in a run that goes on with changes."""

    @abstractmethod
    def build(self, config: Any, resolved: Mapping[str, Any]) -> nn.Module:
        """The method with its seeded initial weights; also on the meta device."""

    @abstractmethod
    def start(self, config: Any, method: nn.Module) -> str | None:
        """Copy the weights that the run starts from; returns what they are."""

    @abstractmethod
    def groups(self, config: Any, method: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser, with (name, parameter) pairs."""

    @abstractmethod
    def transform(self, config: Any, resolved: Mapping[str, Any]) -> Transform:
        """What happens to an image on its way into a batch."""

    @abstractmethod
    def evaluator(
        self, job: Job, folder: RunFolder, plan: Plan, device: torch.device
    ) -> Callable[[State], Mapping[str, Any]]:
        """What is measured on the way; returns what to log."""

    @abstractmethod
    def describe(self, job: Job, method: nn.Module) -> list[tuple[str, str]]:
        """Lines of (head, text) that say what is trained."""

    @abstractmethod
    def finish(self, job: Job, state: State, folder: RunFolder) -> dict[str, Any]:
        """Results of a finished run; averaged weights are already in place where it keeps them."""

    def about(self, config: Any, resolved: Mapping[str, Any]) -> dict[str, str]:
        """Metadata of the encoder file."""
        return {"data": resolved["data_hash"]}

    @abstractmethod
    def next_steps(self, job: Job, folder: RunFolder) -> list[str]:
        """Commands to go on with."""
