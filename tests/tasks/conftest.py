"""Tiny images, tiny runs, and a way to call the command line in this process."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiny_options import TINY

from openmae.cli import main
from openmae.engine.runfolder import read_jsonl


def _image(seed: int, channels: int, size: tuple[int, int]) -> np.ndarray:
    """Noise on a brightness and a slope that the seed chooses, so that images differ as a whole."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, rng.integers(20, 120), size[1])
    base = rng.integers(0, 100, channels) + slope[None, :, None]
    noisy = np.broadcast_to(base, (*size, channels)) + rng.integers(0, 30, (*size, channels))
    return noisy.astype(np.uint8)


def _images(folder: Path, count: int = 6, channels: int = 3, size=(40, 44), first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = _image(first + i, channels, size)
        if channels in (1, 3):
            Image.fromarray(image.squeeze()).save(folder / f"{i:02d}.png")
        else:
            tifffile.imwrite(
                folder / f"{i:02d}.tif", image, photometric="minisblack", planarconfig="contig"
            )
    return folder


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Options of a very small model; how many steps is left to the test."""
    return list(TINY)


@pytest.fixture(scope="session")
def sized() -> Callable[..., list[str]]:
    """Options of a very small model, with those given in their place."""

    def merge(*options: object) -> list[str]:
        words = [str(o) for o in options]
        pairs = [TINY[i : i + 2] for i in range(0, len(TINY), 2)]
        return [*(w for pair in pairs if pair[0] not in words for w in pair), *words]

    return merge


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Path]:
    """A function that writes a few image files into a folder: PNG, or TIFF of many bands."""
    return _images


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run a command that must succeed, in this process; returns what it printed."""

    def call(*words: object) -> str:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(w) for w in words])
        assert code == 0, f"exit {code}: {err.getvalue()}"
        return out.getvalue() + err.getvalue()

    return call


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run a command in this process; returns its exit code, and what it printed and warned."""

    def call(*words: object) -> SimpleNamespace:
        code = main([str(w) for w in words])
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of a few images."""
    return _images(tmp_path / "photos")


@pytest.fixture(scope="session")
def logged() -> Callable[[Path], list[tuple[int, float]]]:
    """The steps and losses that a run folder has logged."""

    def read(out: Path) -> list[tuple[int, float]]:
        return [(r["step"], r["loss"]) for r in read_jsonl(out / "metrics.jsonl") if "loss" in r]

    return read


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three class folders of ten images that a classifier can tell apart a little."""
    root = tmp_path_factory.mktemp("classes")
    for number, name in enumerate(("ant", "bee", "cat")):
        _images(root / name, 10, first=100 * number)
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, classes: Path, run) -> Path:
    """The run folder of three steps on the classes."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run("pretrain", classes, "--out", folder, *TINY, "--steps", 3, "--recipe", "laptop")
    return folder
