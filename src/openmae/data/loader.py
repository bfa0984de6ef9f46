"""Batches as a pure function of the step: no loader state, so nothing to save and nothing to lose.

The order is one endless stream of concatenated permutations; a batch may span epochs, and data
smaller than a batch work. Position = step * global batch + slot.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from openmae.data.order import Order
from openmae.data.reading import Reading
from openmae.data.sources import Sample, Source
from openmae.data.stream import loader as loader
from openmae.data.values import Pixels
from openmae.errors import DataError
from openmae.randomness import words

Batch = dict[str, Any]


class Transform(Protocol):
    """`draws` makes the randomness of consecutive positions; a call uses one row of it.

    One with an attribute `whole = True` takes the whole sample in place of its image, and gives a
    dict with "image" and what else its method needs: see `collated`.
    """

    def draws(self, position: int, rows: int) -> NDArray[np.float64]: ...
    def __call__(self, image: Any, draws: NDArray[np.float64], /) -> Any: ...


class TrainBatches(Dataset[Batch]):
    """`batches[step]` -> {"image" (B, C, H, W), "path", "id", "label", "bad"} for one rank's
    slots of the global batch.

    An image that cannot be read is replaced by another one that its position decides ("skip"), by
    zeros ("zero"), or ends the run ("error"); "bad" lists (path, reason). Images of `excluded` are
    always replaced.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        seed: int,
        global_batch: int,
        bad_images: Literal["skip", "error", "zero"] = "skip",
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
        excluded: Collection[int] = (),
    ) -> None:
        self.source, self.transform, self.seed = source, transform, seed
        self.global_batch, self.bad_images = global_batch, bad_images
        self.first, self.rows = rank * global_batch // world, global_batch // world
        self.index = Order(seed, len(source), source.weights, repeats)
        self.excluded = frozenset(excluded)
        self.reading = Reading()

    def __getitem__(self, step: int) -> Batch:
        first = step * self.global_batch + self.first
        bad: list[tuple[str, str]] = []
        draws = self.transform.draws(first, self.rows)
        last: list[Any] = [-1, None]
        images: list[Any] = []
        told: Batch = {"path": [], "id": [], "label": []}
        with self.reading.of(step) as reads:
            for slot in range(self.rows):
                image, sample = self._row(first + slot, draws[slot], bad, last, reads)
                images.append(image)
                _tell(sample, told)
        told["label"] = torch.from_numpy(np.stack(told["label"]))
        return told | collated(images) | {"bad": bad}

    def _made(self, sample: Sample, draws: NDArray[np.float64]) -> Any:
        whole = getattr(self.transform, "whole", False)
        return self.transform(sample if whole else sample["image"], draws)

    def _row(
        self,
        position: int,
        draws: NDArray[np.float64],
        bad: list[tuple[str, str]],
        last: list[Any],
        reads: Callable[[int], None],
    ) -> tuple[Any, Sample]:
        index = self.index(position)
        for attempt in range(20):
            try:
                if index in self.excluded:
                    raise _ExcludedError
                if index != last[0]:  # repeated augmentation decodes an image once
                    reads(index)
                    last[:] = index, self.source[index]
                sample = last[1]
                return self._made(sample, draws), sample
            except _ExcludedError:
                pass
            except DataError as error:
                path = self.source.path(index)
                if self.bad_images == "error":
                    raise DataError(f"{path}: {error}. Remove it, or --bad-images skip") from None
                bad.append((path, str(error)))
                if self.bad_images == "zero":
                    return self._zero(index, draws)
            index = int(
                words(self.seed, f"replace-{attempt}", position, 1, 1)[0, 0]
                % np.uint64(len(self.source))
            )
        if not bad:
            raise DataError(f"{len(self.excluded)} images are excluded, and too few are left")
        raise DataError(
            f"{len(bad)} images in a row cannot be read, the last one {bad[-1][0]}: {bad[-1][1]}"
        )

    def _zero(self, index: int, draws: NDArray[np.float64]) -> tuple[Any, Sample]:
        decoding = self.source.decoding
        channels = max(decoding.bands, default=(decoding.channels or 3) - 1) + 1
        image = decoding(np.zeros((32, 32, channels), dtype=np.uint8))
        path, label = self.source.path(index), self.source.label(index)
        sample = Sample(image=image, path=path, id=index, label=label)
        return self._made(sample, draws), sample


STACKED = ("image", "mask", "local")
"""What a transform of samples gives in one size for all images; the rest stays a list of rows."""


def collated(made: Sequence[Any]) -> Batch:
    """Images, or dicts of one image each -> one entry for each name, with the rows in order."""
    if not isinstance(made[0], dict):
        return {"image": torch.stack(list(made))}
    lists = {name: [row[name] for row in made] for name in made[0]}
    return {n: torch.stack(rows) if n in STACKED else rows for n, rows in lists.items()}


class _ExcludedError(Exception):
    """An image that the run does without."""


def _tell(sample: Sample, told: Batch) -> None:
    """Keep what a batch says of an image; not the decoded image, of which a batch is large."""
    told["path"].append(sample["path"])
    told["id"].append(sample["id"])
    told["label"].append(sample["label"])


class EvalBatches(Dataset[Batch]):
    """The images of a source in order: `batches[i]` holds rows i * size and on; what cannot be read
    is left out.
    """

    def __init__(self, source: Source, transform: Callable[[Pixels], Tensor], size: int) -> None:
        self.source, self.transform, self.size = source, transform, size

    def __len__(self) -> int:
        return -(-len(self.source) // self.size)

    def __getitem__(self, number: int) -> Batch:
        told: Batch = {"path": [], "id": [], "label": []}
        images: list[Tensor] = []
        bad: list[tuple[str, str]] = []
        for index in range(number * self.size, min((number + 1) * self.size, len(self.source))):
            try:
                sample = self.source[index]
            except DataError as error:
                bad.append((self.source.path(index), str(error)))
                continue
            images.append(self._image(sample, index))
            _tell(sample, told)
        return told | {"image": torch.stack(images) if images else None, "bad": bad}

    def _image(self, sample: Sample, index: int) -> Tensor:
        return self.transform(sample["image"])


class ViewBatches(EvalBatches):
    """As EvalBatches, with random views: view v of image i has the draws of position v * N + i."""

    def __init__(self, source: Source, views: Transform, size: int, view: int = 0) -> None:
        super().__init__(source, lambda image: views(image, views.draws(0, 1)[0]), size)
        self.views, self.view = views, view

    def _image(self, sample: Sample, index: int) -> Tensor:
        draws = self.views.draws(self.view * len(self.source) + index, 1)[0]
        return self.views(sample["image"], draws)
