"""A run of two checkpoints that nobody trained, some images, and the demo of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_options import TINY_MAE

from openmae.engine import checkpoint
from openmae.methods import name_of
from openmae.methods.mae import MAE
from openmae.report.explorer import Explorer
from openmae.tasks.decoding import decoding_of
from openmae.tasks.demoimages import offered
from openmae.tasks.reconstruct import pictured
from openmae.weights.steps import Steps

TOKEN = "token-of-the-tests"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images with something in them, not square."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(5):
        rng = np.random.default_rng(i)
        slope = np.linspace(0, 200, 66)[None, :, None] * rng.random(3)
        image = np.broadcast_to(slope, (44, 66, 3)) + rng.integers(0, 50, (44, 66, 3))
        Image.fromarray(image.astype(np.uint8)).save(folder / f"picture {i}.png")
    return folder


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the steps 10 and 20, whose weights differ."""
    run = tmp_path_factory.mktemp("demo") / "run"
    for step in (10, 20):
        with torch.random.fork_rng():
            torch.manual_seed(step)
            method = MAE(**TINY_MAE)
        record = {"name": name_of(method), "arguments": method.arguments}
        checkpoint.save(run / "checkpoints", step, method, None, None, {"method": record})
    return run


@pytest.fixture(scope="session")
def explore(demo_run: Path, pictures: Path):
    """A function that makes a new explorer of the run and the images."""

    def make(**more) -> Explorer:
        loaded, method = pictured(str(demo_run), "demo")
        reads = decoding_of(method.encoder)
        found = offered([str(pictures)], reads, method.encoder)
        steps = Steps(loaded)
        return Explorer(
            steps, str(demo_run), loaded.what, reads, found.source, found.about, found.word, **more
        )

    return make


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


@pytest.fixture(scope="module")
def running(explore) -> Iterator[Running]:
    """The demo of the run."""
    pytest.importorskip("fastapi", reason="demo needs FastAPI")
    made = Running(explore())
    yield made
    made.close()
