"""Decoding in a process apart: the same pixels, and whatever a file does to it, an answer."""

from __future__ import annotations

import io
import os
import signal
import struct
import threading
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from openmae.data.apart import MOST_PIXELS, Apart
from openmae.data.decode import read_image
from openmae.errors import DataError


@pytest.fixture(scope="module")
def apart():
    made = Apart()
    yield made
    made.close()


def picture(kind: str = "PNG", size=(17, 31), **options) -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A small PNG that says it is so large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def deep() -> bytes:
    file = io.BytesIO()
    values = np.arange(5 * 7 * 4, dtype=np.uint16).reshape(5, 7, 4) * 300
    tifffile.imwrite(file, values, photometric="minisblack", planarconfig="contig")
    return file.getvalue()


@pytest.mark.parametrize(
    "data", [picture(), picture("JPEG", quality=90), picture("WEBP"), deep()], ids=len
)
def test_the_pixels_are_those_of_the_same_reader_here(apart, data):
    found, here = apart.decode(data), read_image(data)
    assert found.dtype == here.dtype
    np.testing.assert_array_equal(found, here)


def test_gray_is_asked_for(apart):
    assert apart.decode(picture(), gray=True).shape == (17, 31, 1)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "known format"),
        (b"<!doctype html><script>1</script>", "known format"),
        (picture("JPEG")[:200], "."),
        (picture()[:100], "."),
        (png_of(30000, 30000), "pixels"),
        (png_of(MOST_PIXELS // 5000 + 1, 5000), f"{MOST_PIXELS:,} pixels"),
    ],
    ids=["empty", "svg", "html", "jpeg", "png", "bomb", "large"],
)
def test_what_cannot_be_read_is_an_error_and_the_process_lives_on(apart, data, says):
    with pytest.raises(DataError, match=says):
        apart.decode(data)
    assert apart.decode(picture()).shape == (17, 31, 3)


def test_a_file_that_takes_too_long_ends_the_process_and_the_next_is_read():
    slow = Apart(seconds=0.0)
    try:
        with pytest.raises(DataError, match="takes more than 0 s"):
            slow.decode(picture())
        slow.seconds = 30.0
        assert slow.decode(picture()).shape == (17, 31, 3)
    finally:
        slow.close()


def test_a_process_that_crashes_over_a_file_is_an_error_and_the_next_is_read():
    apart = Apart()
    try:
        apart.decode(picture())
        child = apart._child
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)
        killing = threading.Timer(0.1, os.kill, (child.pid, signal.SIGKILL))
        killing.start()
        with pytest.raises(DataError, match="ended without an answer"):
            apart.decode(picture())
        killing.join()
        assert apart.decode(picture()).shape == (17, 31, 3)
    finally:
        apart.close()
    assert child.poll() is not None
