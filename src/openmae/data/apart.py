"""Decode files of strangers in a process apart: with a time-out, limits on memory and pixels, and
without harm where a decoder crashes.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import struct
import subprocess
import sys
import time
from typing import IO, Any

import numpy as np

from openmae.data.decode import read_header, read_image
from openmae.data.values import Pixels
from openmae.errors import DataError

MOST_PIXELS = 50_000_000
"""Of an image that a stranger gives, known before it is decoded."""

MOST_VALUES = 150_000_000
"""Pixels times channels."""

SECONDS = 20.0
"""That one image may take."""

_MEMORY = 4 * 1024**3  # address space of the process
_HEAD = struct.Struct("<QQ")  # bytes of the JSON, bytes that follow it
_WORDS = "from openmae.data.apart import serve; serve()"


class Apart:
    """A process that decodes one file at a time. It is started when it is first needed, and again
    after it had to be ended.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes, gray: bool | None = None) -> Pixels:
        """A file in memory -> (H, W, C), as `read_image`.

        Raises:
            DataError: it cannot be read, is too large, or takes too long.
        """
        child = self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            _send(child.stdin, {"gray": gray}, data)
            told, values = _receive(child.stdout, time.monotonic() + self.seconds)
        except TimeoutError:
            self.close()
            raise DataError(f"takes more than {self.seconds:g} s to read") from None
        except (OSError, EOFError, ValueError):
            self.close()
            raise DataError("the decoder ended without an answer") from None
        if "error" in told:
            raise DataError(told["error"])
        image: Pixels = np.frombuffer(values, dtype=told["dtype"]).reshape(told["shape"])
        return image

    def close(self) -> None:
        """End the process."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            child.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            more = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self._child = subprocess.Popen(
                [sys.executable, "-c", _WORDS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server alone
                env={**os.environ, **more},
            )
        return self._child


def serve() -> None:
    """The loop of the process: a file comes, an image or an error goes, until the pipe closes."""
    _limit_memory()
    source, sink = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    while True:
        head = source.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return
        length, more = _HEAD.unpack(head)
        asked = json.loads(source.read(length))
        try:
            image = _decode(source.read(more), asked["gray"])
            _send(sink, {"shape": image.shape, "dtype": image.dtype.str}, image.tobytes())
        except DataError as error:
            _send(sink, {"error": str(error)}, b"")
        except MemoryError:
            _send(sink, {"error": "needs more memory than an image may"}, b"")


def _decode(data: bytes, gray: bool | None) -> Pixels:
    header = read_header(data)
    if header.height * header.width > MOST_PIXELS:
        raise DataError(f"{header.width}x{header.height} is more than {MOST_PIXELS:,} pixels")
    if header.height * header.width * header.channels > MOST_VALUES:
        raise DataError(f"{header.width}x{header.height}x{header.channels} is too large")
    return np.ascontiguousarray(read_image(data, gray))


def _limit_memory() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _send(sink: IO[bytes], told: dict[str, Any], values: bytes) -> None:
    text = json.dumps(told).encode()
    sink.write(_HEAD.pack(len(text), len(values)) + text)
    sink.write(values)
    sink.flush()


def _receive(source: IO[bytes], until: float) -> tuple[dict[str, Any], bytearray]:
    length, more = _HEAD.unpack(_read(source, _HEAD.size, until))
    return json.loads(_read(source, length, until)), _read(source, more, until)


def _read(source: IO[bytes], count: int, until: float) -> bytearray:
    """Exactly so many bytes of a pipe.

    Raises:
        TimeoutError: not in time.
        EOFError: the process ended.
    """
    number, found = source.fileno(), bytearray()
    with selectors.DefaultSelector() as wait:
        wait.register(number, selectors.EVENT_READ)
        while len(found) < count:
            if not wait.select(max(0.0, until - time.monotonic())):
                raise TimeoutError
            part = os.read(number, min(count - len(found), 1 << 20))
            if not part:
                raise EOFError
            found += part
    return found
