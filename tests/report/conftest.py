"""A run of two checkpoints that nobody trained, some images, and the demo of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browsers import launched
from demorunning import Running
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


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Headless Chromium."""
    with launched() as made:
        yield made


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


@pytest.fixture(scope="module")
def running(explore) -> Iterator[Running]:
    """The demo of the run."""
    pytest.importorskip("fastapi", reason="demo needs FastAPI")
    made = Running(explore())
    yield made
    made.close()
