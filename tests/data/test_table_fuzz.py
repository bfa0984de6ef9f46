"""Mutated tables, arrays and sets: whatever their bytes, the outcome is images or a reason.

A child process reads them, so that a reader that ends the process fails a test and not the suite.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_same_images import csv, npy, npz, parquet_bytes, parquet_paths, saved_set, txt

from openmae.data.sources import open_source
from openmae.errors import OpenMAEError

KINDS = {f.__name__: f for f in (csv, npy, npz, parquet_bytes, parquet_paths, saved_set, txt)}
ROUNDS = 120


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, or with some bytes changed, most often near the ends, where headers are."""
    if rng.random() < 0.15:
        return data[: rng.integers(len(data))]
    changed = np.frombuffer(data, dtype=np.uint8).copy()
    near = min(len(data), 1500)
    start = rng.choice([0, len(data) - near])
    where = start + rng.integers(near, size=rng.choice([1, 2, 5, 50]))
    changed[where] = rng.integers(0, 256, len(where))
    return changed.tobytes()


def read(word: str) -> None:
    """All that a run does with a source, on a few of its images."""
    said = []
    try:
        source = open_source(word)
        said += list(source.listing())
    except OpenMAEError as error:
        said.append(str(error))
        source = []
    for index in range(0, len(source), max(1, len(source) // 5)):
        try:
            source[index]
        except OpenMAEError as error:
            said.append(str(error))
    assert all(len(line) < 600 for line in said)


def test_whatever_the_bytes(tmp_path):
    for package in ("datasets", "pyarrow"):
        pytest.importorskip(package)
    path = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parent.parent)))
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout.split()) == (0, list(KINDS)), done.stderr[-3000:]


def main(root: Path) -> None:
    """In the child: mutate a file, read, and put it back, round after round."""
    rng = np.random.default_rng(0)
    for name, make in KINDS.items():
        (root / name).mkdir()
        word = make(root / name)
        whole = Path(word)
        files = [whole] if whole.is_file() else sorted(p for p in whole.rglob("*") if p.is_file())
        for _ in range(ROUNDS):
            file = files[rng.integers(len(files))]
            before = file.read_bytes()
            file.write_bytes(mutated(before, rng))
            read(word)
            file.write_bytes(before)
        print(name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
