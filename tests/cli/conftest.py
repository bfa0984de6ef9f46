"""Tiny images, a tiny run and a way to call the command line in this process."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from tiny_options import TINY

from openmae.cli import main


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


def _images(folder: Path, count: int = 6, size: tuple[int, int] = (40, 44), gray: bool = False):
    folder.mkdir(parents=True, exist_ok=True)
    shape = size if gray else (*size, 3)
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Options of a very small model; how many steps is left to the test."""
    return list(TINY)


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Path]:
    """A function that writes a few PNG files of noise into a folder."""
    return _images


@pytest.fixture(scope="session")
def quiet() -> Callable[..., int]:
    """Run a command in this process without its output, for what a test only builds on."""

    def call(*words: object) -> int:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return main([str(w) for w in words])

    return call


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command in this process; its exit code, standard output and standard error."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(w) for w in words])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, quiet: Callable[..., int]) -> Path:
    """A finished run of two steps on two class folders, beside them: photos/ and run/."""
    root = tmp_path_factory.mktemp("shared")
    for name in ("a", "b"):
        _images(root / "photos" / name)
    code = quiet("pretrain", root / "photos", "--out", root / "run", *TINY, "--steps", 2)
    assert code == 0
    return root / "run"
