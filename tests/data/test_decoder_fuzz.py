"""Mutated files of every format, each in a child with 3 GB of address space: the outcome is an
array or DataError within 10 seconds and 1 GB, whatever the bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sample_files import FILES, deep, dicom, heic, smooth

HERE = Path(__file__).parent


def fuzz(paths: list[Path], count: int, seed: int) -> None:
    command = [sys.executable, str(HERE / "decoding_child.py"), str(count), str(seed)]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *bad, last = (json.loads(line) for line in done.stdout.splitlines())
    assert bad == []
    assert done.stderr == ""  # no decoder prints
    tally = last["summary"]
    assert sum(tally.values()) == count
    assert (
        min(tally["read"], tally["refused"]) > count / 10
    )  # the mutations are neither mild nor fatal


@pytest.fixture
def files(tmp_path) -> list[Path]:
    made = {name: make() for name, make in FILES.items()}
    made |= {"dicom": dicom(deep(40, 56)), "dicom-rgb": dicom(smooth(), "RGB"), "heic": heic()}
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    return [tmp_path / name for name in made]


def test_a_few_hundred(files):
    fuzz(files, 344, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many(files):
    fuzz(files, 20_000, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_real_ones():
    data = os.environ.get("OPENMAE_DATA")
    if not data or not Path(data).is_dir():
        pytest.skip("OPENMAE_DATA names no folder")
    found = [
        p for part in ("odd", "multiband", "imagenet") for p in sorted(Path(data, part).rglob("*"))
    ]
    suffixes = (".tsv", ".txt", ".md")
    paths = [p for p in found if p.is_file() and p.suffix and p.suffix not in suffixes]
    assert len(paths) > 100
    fuzz(paths, 10_000, seed=2)
