"""How images are read for a model: as it was trained."""

from __future__ import annotations

from collections.abc import Sequence

from openmae.data.check import check_fits
from openmae.data.source import Source
from openmae.data.values import Decoding
from openmae.engine.log import warn
from openmae.models.encoder import Encoder


def decoding_of(encoder: Encoder) -> Decoding:
    """Channels, bands and value range of what the encoder reads."""
    mean, std = (v.flatten().tolist() for v in (encoder.mean, encoder.std))
    return decoding(encoder.in_chans, encoder.bands, encoder.value_range, mean, std)


def require_fit(source: Source, encoder: Encoder) -> None:
    """A look at some images: a model is not given what it cannot read, nor another scale of values
    without a word.

    Raises:
        DataError: other channels or values than it reads.
    """
    for line in check_fits(source, encoder.in_chans).about_range():
        warn(line)


def decoding(
    channels: int,
    bands: Sequence[int] = (),
    value_range: Sequence[float] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Decoding:
    """From what is recorded in files, where tuples have become lists."""
    low_high = None if value_range is None else (value_range[0], value_range[1])
    centre, spread = (None if v is None else tuple(v) for v in (mean, std))
    return Decoding(channels, tuple(bands), low_high, centre, spread)
