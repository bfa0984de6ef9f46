"""Batches as a pure function of the step: no loader state, so nothing to save and nothing to lose.

The order is one endless stream of concatenated permutations; a batch may span epochs, and data
smaller than a batch work. Position = step * global batch + slot.
"""

from __future__ import annotations

import atexit
import ctypes
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openmae.data.order import Order
from openmae.data.sources import Sample, Source
from openmae.data.values import Pixels
from openmae.errors import DataError, MemoryLimitError, StorageError
from openmae.randomness import words

Batch = dict[str, Any]


class Transform(Protocol):
    """`draws` makes the randomness of consecutive positions; a call uses one row of it."""

    def draws(self, position: int, rows: int) -> NDArray[np.float64]: ...
    def __call__(self, image: Pixels, draws: NDArray[np.float64]) -> Tensor: ...


class TrainBatches(Dataset[Batch]):
    """`batches[step]` -> {"image" (B, C, H, W), "path", "id", "label", "bad"} for one rank's
    slots of the global batch.

    An image that cannot be read is replaced by another one that its position decides ("skip"), by
    zeros ("zero"), or ends the run ("error"); "bad" lists (path, reason).
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
    ) -> None:
        self.source, self.transform, self.seed = source, transform, seed
        self.global_batch, self.bad_images = global_batch, bad_images
        self.first, self.rows = rank * global_batch // world, global_batch // world
        self.index = Order(seed, len(source), source.weights, repeats)

    def __getitem__(self, step: int) -> Batch:
        first = step * self.global_batch + self.first
        bad: list[tuple[str, str]] = []
        draws = self.transform.draws(first, self.rows)
        last: list[Any] = [-1, None]
        images: list[Tensor] = []
        told: Batch = {"path": [], "id": [], "label": []}
        for slot in range(self.rows):
            image, sample = self._row(first + slot, draws[slot], bad, last)
            images.append(image)
            _tell(sample, told)
        told["label"] = torch.from_numpy(np.stack(told["label"]))
        return told | {"image": torch.stack(images), "bad": bad}

    def _row(
        self, position: int, draws: NDArray[np.float64], bad: list[tuple[str, str]], last: list[Any]
    ) -> tuple[Tensor, Sample]:
        index = self.index(position)
        for attempt in range(20):
            try:
                if index != last[0]:  # repeated augmentation decodes an image once
                    last[:] = index, self.source[index]
                sample = last[1]
                return self.transform(sample["image"], draws), sample
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
        raise DataError(
            f"{len(bad)} images in a row cannot be read, the last one {bad[-1][0]}: {bad[-1][1]}"
        )

    def _zero(self, index: int, draws: NDArray[np.float64]) -> tuple[Tensor, Sample]:
        decoding = self.source.decoding
        channels = max(decoding.bands, default=(decoding.channels or 3) - 1) + 1
        image = decoding(np.zeros((32, 32, channels), dtype=np.uint8))
        path, label = self.source.path(index), self.source.label(index)
        sample = Sample(image=image, path=path, id=index, label=label)
        return self.transform(image, draws), sample


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


def loader(
    batches: Dataset[Batch], numbers: Sequence[int], workers: int, pin: bool = False
) -> Iterator[Batch]:
    """Iterate over `batches[n]` for the numbers, made ahead by `workers` processes; the same for
    any number of them.

    Raises:
        MemoryLimitError: a worker was killed, most often for memory or shared memory.
    """
    made: DataLoader[Batch] = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_quiet_worker if workers else None,
        multiprocessing_context=(
            ("fork" if sys.platform == "linux" else "spawn") if workers else None
        ),
    )
    stream = iter(made)
    end = partial(_end, stream)
    atexit.register(end)  # an error may leave it alive until the interpreter ends
    try:
        yield from stream
    except (DataError, StorageError) as error:  # from a worker, wrapped in that worker's traceback
        kind = type(error)
        text = str(error).strip().splitlines()[-1].split(f"{kind.__name__}: ", 1)[-1]
        raise kind(text) from None
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise MemoryLimitError(
            "A loader process was killed (most often memory, or a small /dev/shm). "
            "In Docker: --shm-size 8g. Or --workers 0"
        ) from error
    finally:
        end()
        atexit.unregister(end)


def _end(stream: Any) -> None:
    """Stop the workers. They ignore SIGTERM, so Python's own end would wait for them for ever."""
    workers = getattr(stream, "_workers", [])
    getattr(stream, "_shutdown_workers", lambda: None)()
    for worker in workers:
        worker.kill()


def _quiet_worker(_: int) -> None:
    """A stop signal to the whole group concerns the main process; a worker dies with its parent."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans
