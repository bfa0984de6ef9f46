"""The check at the end of a session sees what is left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from leftovers import Leftovers


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch):
    for name in ("TMPDIR", "OPENMAE_TEST_SESSION"):  # put back after the test
        monkeypatch.setenv(name, os.environ.get(name, ""))
    before = tempfile.tempdir
    made = Leftovers()
    made_in = made.folder
    yield made
    made.close()
    tempfile.tempdir = before
    assert not made_in.exists()


def test_nothing_is_left(left: Leftovers) -> None:
    subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)
    with tempfile.TemporaryDirectory():
        pass
    assert left.found() == []


def test_everything_is_seen(left: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leftovers._PATIENCE", 0.0)
    words = [sys.executable, "-S", "-c", "import time; print(1, flush=True); time.sleep(60)"]
    name = f"openmae_{2**22 + 1}_x"  # of no process: above the most that there are
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            folder = tempfile.mkdtemp(prefix="openmae-")
            Path("/dev/shm", name).touch()
            found = left.found()
        finally:
            child.kill()
            Path("/dev/shm", name).unlink(missing_ok=True)
    assert len(found) == 3
    assert f"process {child.pid}: " in found[0]
    assert found[1] == f"/dev/shm/{name}"
    assert found[2] == folder
