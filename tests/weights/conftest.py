"""A tiny run, with and without averaged weights."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_options import TINY

from openmae.cli import main


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two runs, raw/ and ema/."""
    root = tmp_path_factory.mktemp("runs")
    (root / "photos").mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (40, 44, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "photos" / f"{i}.png")
    for name, more in (("raw", []), ("ema", ["--ema", "0.9"])):
        words = ["pretrain", str(root / "photos"), "--out", str(root / name), *TINY, *more]
        words[words.index("--depth") + 1] = "2"
        words += ["--steps", "3"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main([*words, "--save-every", "1"]) == 0
    return root
