"""Images with masks: a source whose samples have the class of each pixel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.folder import FolderSource
from openmae.data.maskfile import IGNORED, Labels, read_mask
from openmae.data.masklayouts import INSTANCES, Pairs
from openmae.data.names import Names, shown
from openmae.data.source import Sample
from openmae.data.values import Decoding
from openmae.errors import DataError


class MaskSource(FolderSource):
    """The images of `pairs`, each with its mask. Classes of images there are none: `names` are
    those of the pixels.
    """

    def __init__(
        self, pairs: Pairs, labels: Labels, names: Sequence[str], decoding: Decoding | None = None
    ) -> None:
        super().__init__(pairs.root, pairs.files, decoding)
        self.classes, self.table_labels = [], None
        self.pairs, self.pixel_labels, self.names = pairs, labels, list(names)
        self.mask_files = [Names(row) for row in pairs.of]

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        sample["mask"] = self.row_mask(int(self.rows[index]))
        require_size(sample["mask"], sample["image"])
        return sample

    def row_mask(self, row: int) -> NDArray[np.int16]:
        """Classes (H, W) of a row, -1 for no label.

        Raises:
            DataError: the mask cannot be read, or has values that are no class.
        """
        return self.pixel_labels.classes(self.row_values(row))

    def row_values(self, row: int) -> NDArray[np.int64]:
        """The mask of a row as it is in its file; of several objects 255 where any of them is.

        Raises:
            DataError: it cannot be read.
        """
        files = self.mask_files[row]
        if self.pairs.kind != INSTANCES:
            return self._read(files[0])
        whole: NDArray[np.int64] | None = None
        for name in files:
            part = self._read(name)
            if whole is not None and part.shape != whole.shape:
                raise DataError(f"{shown(name)} is of another size than the masks beside it")
            whole = part if whole is None else np.maximum(whole, part)
        if whole is None:  # an image without objects
            header = self.row_header(row)
            return np.zeros((header.height, header.width), dtype=np.int64)
        return np.where(whole > 0, 255, 0)

    def _read(self, name: str) -> NDArray[np.int64]:
        try:
            return read_mask(self.pairs.masks / name, self.pixel_labels)
        except DataError as error:
            raise type(error)(f"{self.pairs.masks / name}: {error}") from None

    def mask_path(self, row: int) -> str:
        """The first file of a row's mask."""
        files = self.mask_files[row]
        return str(self.pairs.masks / (files[0] if len(files) else self.pairs.files[row]))

    def row_line(self, row: int) -> str:
        """Path and size of the image and of its masks."""
        line = super().row_line(row)
        names = self.mask_files[row]
        sizes = (os.stat(os.path.join(self.pairs.masks, name)).st_size for name in names)
        return f"{line}\t{' '.join(f'{n} {s}' for n, s in zip(names, sizes, strict=True))}"

    def images(self) -> FolderSource:
        """The images alone, of the same rows."""
        alone = FolderSource(Path(self.root), self.files, self.decoding)
        alone.rows = self.rows
        return alone


def require_size(mask: NDArray[Any], image: NDArray[Any]) -> None:
    """Raise DataError unless a mask is of the size of its image."""
    if mask.shape == image.shape[:2]:
        return
    (h, w), (height, width) = mask.shape, image.shape[:2]
    turned = " (turned by its EXIF orientation?)" if (w, h) == (height, width) else ""
    raise DataError(f"mask is {w}x{h}, its image {width}x{height}{turned}")


def no_labels(mask: NDArray[np.int16]) -> bool:
    """Whether a mask has no labelled pixel."""
    return bool((mask == IGNORED).all())
