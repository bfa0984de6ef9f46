"""A demo in this process, and what is sent to it."""

from __future__ import annotations

import io
import threading

import numpy as np
from PIL import Image

from openmae.report.explorer import Explorer

TOKEN = "token-of-the-tests"


class Running:
    """A server on a free port, in a thread."""

    def __init__(self, explorer: Explorer, queue: int = 8, host: str = "127.0.0.1") -> None:
        from openmae.report import demoserver

        self.desk = demoserver.Desk(explorer, queue)
        self.socket = demoserver.listen("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.guard = demoserver.guarded(self.desk, TOKEN, self.port, host)
        self.server = demoserver.server(self.guard)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.port}/?t={TOKEN}"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.desk.close()
        self.socket.close()
        assert not self.thread.is_alive()


def photo(kind: str = "PNG", size: tuple[int, int] = (40, 60)) -> bytes:
    """An image file of noise."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()
