"""TIFF whose tables lie: refused before memory or time is spent."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from sample_files import by_tifffile, deep, noise, patched

from openmae.data.decode import read_image
from openmae.errors import DataError

LIES = {
    ("ImageLength", 2**32 - 1): "more than 89,478,485 pixels",
    ("ImageWidth", 0): "0x40: no pixels",
    ("SamplesPerPixel", 65535): "corrupted strip",
    ("StripOffsets", 2**32 - 1): "truncated",
    ("StripByteCounts", 2**32 - 1): "truncated",
    ("Compression", 50001): "compressed by WEBP is not read",
    ("PhotometricInterpretation", 8): "colours are CIELAB is not read",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie[0])
def test_tables_that_lie(lie):
    data = patched(by_tifffile(deep(40, 50), compression="zlib", metadata=None), *lie)
    with pytest.raises(DataError, match=LIES[lie]):
        read_image(data)


def test_bombs():
    """A small file may not decode to much more than a picture does."""
    flat = np.zeros((9000, 9000), np.uint64)
    bomb = by_tifffile(flat, compression="zlib", rowsperstrip=9000)
    assert len(bomb) < 1_000_000
    with pytest.raises(DataError, match="a decompression bomb"):
        read_image(bomb)
    tile = by_tifffile(noise(16, 16), tile=(16, 16), compression="zlib", metadata=None)
    with pytest.raises(DataError, match=r"tiles of"):
        read_image(patched(patched(tile, "TileWidth", 65520), "TileLength", 65520))


def test_a_small_tile_that_is_a_large_jpeg():
    large = imagecodecs.jpeg_encode(np.zeros((9000, 9000), np.uint8), level=1)
    data = by_tifffile(noise(16, 16), tile=(16, 16), compression="jpeg", metadata=None)
    data = patched(patched(data, "TileOffsets", len(data)), "TileByteCounts", len(large))
    with pytest.raises(DataError, match=r"81,000,000 pixels where 256 are announced"):
        read_image(data + large)


def test_a_tag_of_several_values():
    data = by_tifffile(deep(40, 50), compression="zlib", metadata=None)
    entry = data.index(b"\x03\x01\x03\0\x01\0\0\0")  # Compression: one SHORT
    data = data[: entry + 4] + b"\x40" + data[entry + 5 :]
    with pytest.raises(DataError, match=r"^a TIFF with several values of compression$"):
        read_image(data)
