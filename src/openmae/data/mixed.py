"""Several sources drawn as one, each with its share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openmae.data.decode import Header
from openmae.data.source import Source
from openmae.data.values import Decoding, Pixels
from openmae.errors import UsageError


class MixedSource(Source):
    """Images of several sources, one source after the other; source k is drawn with `shares[k]`.

    Weights that a source brings count within its share. Classes are those of all sources by name,
    or none where one has none. Paths begin with the number of the source, from 1.
    """

    def __init__(self, sources: Sequence[Source], shares: Sequence[float]) -> None:
        name = " + ".join(f"{share:.0%} {s.name}" for s, share in zip(sources, shares, strict=True))
        super().__init__(name, sum(map(len, sources)), sources[0].decoding)
        self.sources = list(sources)
        self.starts = np.cumsum([0, *map(len, sources)])
        parts = [_within(s) * share for s, share in zip(sources, shares, strict=True)]
        self.table_weights = np.concatenate(parts)
        if all(s.classes for s in sources):
            self.classes = sorted({name for s in sources for name in s.classes})
            number = {name: i for i, name in enumerate(self.classes)}
            tables = [np.array([number[c] for c in s.classes], dtype=np.int64) for s in sources]
            labels = [t[s.labels] for t, s in zip(tables, sources, strict=True)]
            self.table_labels = np.concatenate(labels)

    def _at(self, row: int) -> tuple[Source, int, int]:
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        source = self.sources[number]
        return source, int(source.rows[row - self.starts[number]]), number

    def row_path(self, row: int) -> str:
        """NUMBER:PATH."""
        source, inner, number = self._at(row)
        return f"{number + 1}:{source.row_path(inner)}"

    def row_image(self, row: int) -> Pixels:
        """Of the source."""
        source, inner, _ = self._at(row)
        return source.row_image(inner)

    def row_line(self, row: int) -> str:
        """Of the source, with its number."""
        source, inner, number = self._at(row)
        return f"{number + 1}:{source.row_line(inner)}"

    def row_header(self, row: int) -> Header:
        """Of the source."""
        source, inner, _ = self._at(row)
        return source.row_header(inner)

    def decoded(self, decoding: Decoding) -> MixedSource:
        """The same images, read another way; the parts know of it too (a decoder of JPEG does)."""
        again = super().decoded(decoding)
        again.sources = [source.decoded(decoding) for source in self.sources]
        return again


def _within(source: Source) -> NDArray[np.float64]:
    """Weights of a source's images, 1 in all."""
    weights = np.ones(len(source)) if source.weights is None else source.weights
    return weights / weights.sum()


def parse_mix(words: Sequence[str]) -> list[tuple[str, float]]:
    """ "PATH=SHARE" -> (path, share), shares of the whole below 1 together.

    Raises:
        UsageError: no such words.
    """
    found = []
    for word in words:
        path, mark, text = word.rpartition("=")
        try:
            share = float(text) if mark and path else 0.0
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            raise UsageError(f"--mix {word}: give PATH=SHARE, such as more/=0.3")
        found.append((path, share))
    if sum(share for _, share in found) >= 1:
        raise UsageError(f"--mix {' '.join(words)}: the shares must leave something for DATA (< 1)")
    return found
