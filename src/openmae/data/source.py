"""What every source of images is: random access, `len(source)` and `source[i] -> Sample`.

To add one, subclass `Source` (or `BytesSource`, if its images are encoded files) in a file of its
own, and give it a line in `openmae.data.sources.OPENERS`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NotRequired, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from openmae.data.decode import Header, header_of, read_header, read_image
from openmae.data.values import Decoding, Pixels

S = TypeVar("S", bound="Source")


class Sample(TypedDict):
    """One image, (H, W, C) uint8 or normalised float32, with its path below the source, its index,
    and its class (-1: none; a vector of zeros and ones for several labels). `mask` is the class of
    each pixel, (H, W) int16, -1 for none, where a source has masks.
    """

    image: Pixels
    path: str
    id: int
    label: Any
    mask: NotRequired[NDArray[np.int16]]


class Source(ABC):
    """Images with random access. A source stands for the rows `rows` of a table that never changes,
    so that a part of it is another array of rows and nothing else.

    Attributes:
        name: what to call it in messages.
        decoding: how the values of its files are read.
        classes: names of the classes, in the order of the labels; empty without classes.
    """

    def __init__(self, name: str, count: int, decoding: Decoding | None = None) -> None:
        self.name, self.decoding = name, decoding or Decoding()
        self.rows: NDArray[np.int64] = np.arange(count, dtype=np.int64)
        self.classes: list[str] = []
        self.table_labels: NDArray[Any] | None = None  # of the whole table, (N,) or (N, K)
        self.table_splits: NDArray[np.int8] | None = None  # as in openmae.data.splits, (N,)
        self.table_weights: NDArray[np.float64] | None = None  # how often each is drawn, (N,)

    @abstractmethod
    def row_path(self, row: int) -> str:
        """The name of an image below the source; unlike all others."""

    @abstractmethod
    def row_image(self, row: int) -> Pixels:
        """The image of a row as it is in the file, (H, W, C).

        Raises:
            DataError: it cannot be read, with the reason.
        """

    @abstractmethod
    def row_line(self, row: int) -> str:
        """What says that an image is still the same: its path and size, without reading it."""

    def row_header(self, row: int) -> Header:
        """Size, channels and type, without decoding where the format allows."""
        return header_of(self.row_image(row))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        image = self.decoding(self.row_image(int(self.rows[index])))
        return Sample(image=image, path=self.path(index), id=index, label=self.label(index))

    @property
    def labels(self) -> NDArray[Any]:
        """(N,) int64, -1 where there is none, or (N, K) float32 of several labels."""
        if self.table_labels is None:
            return np.full(len(self), -1, dtype=np.int64)
        found: NDArray[Any] = self.table_labels[self.rows]
        return found

    def label(self, index: int) -> Any:
        """The label of one image: an int, or (K,) float32."""
        if self.table_labels is None:
            return -1
        found = self.table_labels[self.rows[index]]
        return int(found) if self.table_labels.ndim == 1 else found

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """How often each image is drawn, relative to the others, (N,); None: alike."""
        return None if self.table_weights is None else self.table_weights[self.rows]

    def weighed(self: S, weights: NDArray[np.float64]) -> S:
        """The same images with these weights, (N,); times those they had."""
        again = copy.copy(self)
        whole = np.zeros(int(self.rows.max(initial=-1)) + 1)
        whole[self.rows] = weights if self.weights is None else weights * self.weights
        again.table_weights = whole
        return again

    def path(self, index: int) -> str:
        """The name of an image below the source."""
        return self.row_path(int(self.rows[index]))

    def raw(self, index: int) -> Pixels:
        """An image as it is in the file, whatever `decoding` says."""
        return self.row_image(int(self.rows[index]))

    def header(self, index: int) -> Header:
        """Size, channels and type of an image.

        Raises:
            DataError: it cannot be read.
        """
        return self.row_header(int(self.rows[index]))

    def listing(self) -> Iterator[str]:
        """One line an image. A run's data are these lines, labels included where a table gives
        them.
        """
        if self.table_weights is None:
            yield from map(self.row_line, self.rows.tolist())
            return
        for row in self.rows.tolist():  # other weights are another data set
            yield f"{self.row_line(row)}\tweight {self.table_weights[row]:.9g}"

    def subset(self: S, indices: Sequence[int] | NDArray[Any]) -> S:
        """The images of these indices, in this order; a class that is missing keeps its number."""
        part = copy.copy(self)
        part.rows = self.rows[np.asarray(indices, dtype=np.int64)]
        return part

    def decoded(self: S, decoding: Decoding) -> S:
        """The same images, read another way."""
        again = copy.copy(self)
        again.decoding = decoding
        return again


class BytesSource(Source):
    """A source of encoded files."""

    @abstractmethod
    def row_bytes(self, row: int) -> bytes:
        """The file of a row.

        Raises:
            DataError: it cannot be read.
        """

    def row_name(self, row: int) -> str:
        """What the file itself is called; "" where it is another one than its path says."""
        return self.row_path(row)

    def row_image(self, row: int) -> Pixels:
        """Decode the file of a row."""
        return read_image(self.row_bytes(row), self.decoding.gray)

    def row_header(self, row: int) -> Header:
        """Read the header of the file of a row."""
        return read_header(self.row_bytes(row))


class ArraySource(Source):
    """Images in memory or in a memory-mapped file, (N, H, W, C) of any type."""

    def __init__(
        self,
        name: str,
        images: Pixels,
        labels: NDArray[Any] | None,
        classes: list[str],
        ids: Sequence[int] | None = None,
        decoding: Decoding | None = None,
    ) -> None:
        super().__init__(name, len(images), decoding)
        self.images, self.classes = images, classes
        self.ids = np.arange(len(images)) if ids is None else np.asarray(ids)
        if labels is not None:
            self.table_labels = np.asarray(labels).astype(np.int64)

    def row_path(self, row: int) -> str:
        """NAME/NUMBER."""
        return f"{self.name}/{int(self.ids[row]):04d}"

    def row_image(self, row: int) -> Pixels:
        """The image itself."""
        return np.asarray(self.images[row])

    def row_line(self, row: int) -> str:
        """Name and hash of the values."""
        digest = _digest(np.ascontiguousarray(self.images[row]))
        return f"{self.row_path(row)}\t{digest}"

    def row_header(self, row: int) -> Header:
        """Of the array."""
        return header_of(self.images[row])


def _digest(array: Pixels) -> str:
    import hashlib

    return hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()
