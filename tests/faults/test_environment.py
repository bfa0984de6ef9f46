"""F36, F39: checkpoints of every release, and the odd places in which a command may run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trials import Server, status

import openmae
from openmae.engine import checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
RELEASES = sorted(p.name for p in FIXTURES.glob("release-*"))


@pytest.fixture(params=RELEASES)
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES / request.param, tmp_path / "run")
    return tmp_path / "run"


def test_there_is_a_run_of_every_release() -> None:
    assert RELEASES[0] == "release-0.1.0"
    for name in RELEASES:
        assert sum(p.stat().st_size for p in (FIXTURES / name).rglob("*")) < 250_000


def test_a_run_of_a_release_loads_embeds_and_goes_on(
    trials: Server, released: Path, tmp_path: Path
) -> None:
    found, notices = checkpoint.latest(released / "checkpoints")
    assert found is not None
    assert (found.step, notices) == (6, [])
    encoder = openmae.load(str(released / "encoder.safetensors"))
    with torch.no_grad():
        tokens = encoder(torch.zeros(2, 1, 8, 8))
    assert tokens.shape[0] == 2
    features = tmp_path / "features.npz"
    ended = trials.run(["embed", str(released), "digits", "-o", str(features), "--device", "cpu"])
    assert ended.code == 0, ended.text
    assert np.isfinite(np.load(features)["vector"]).all()
    ended = trials.run(["pretrain", "digits", "--out", str(released), "--workers", "0"])
    assert ended.code == 0, ended.text
    assert "at step 6 of 12" in ended.text
    assert (status(released)["state"], status(released)["step"]) == ("done", 12)


# One process in a place with nothing: no home, no UTF-8, no docstrings, no network, nothing that
# may be written beside what was asked for.

CHILD = """
import os, sys
allowed = sys.argv[1]
package = sys.argv[2]
seen = []

def watch(event, args):
    if event == "socket.connect":
        address = args[1]
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1")):
            raise RuntimeError(f"a socket to {address}")
        seen.append("socket")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise RuntimeError(f"{event} {args}")
    elif event == "open" and isinstance(args[0], (str, bytes)):
        path, flags = os.path.abspath(os.fsdecode(args[0])), args[2] or 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.append("open")
            if not path.startswith((allowed, "/dev/")):
                raise RuntimeError(f"opened {path!r} for writing")

sys.addaudithook(watch)
assert sys.flags.optimize == 2 and watch.__doc__ is None
assert sys.getfilesystemencoding() == "utf-8" or sys.platform == "linux"
from openmae.cli import main
out = os.path.join(allowed, "run")
data = os.path.join(allowed, "data")
small = "--dim 16 --depth 1 --heads 2 --decoder-dim 16 --decoder-depth 1 --decoder-heads 2"
words = f"pretrain {data} --out {out} --recipe laptop --steps 3 --batch-size 4 --workers 1 {small}"
words += " --image-size 16 --patch-size 8 --warmup-epochs 0 --device cpu"
codes = [main(words.split())]
codes.append(main(words.split()))
codes.append(main(f"embed {out} {data} -o {allowed}/f.npz --device cpu".split()))
codes.append(main(["pretrain", "--help"]))
codes.append(main(["pretrain", data, "--mask-ratoi", "3"]))
print("CODES", codes, sorted(set(seen)), sys.getfilesystemencoding())
"""


@pytest.fixture
def bare(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with images of two classes, whose names the locale cannot spell; an environment."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("caf\xe9", "\u6c34")):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(100 * number, 100 + 100 * number, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}\u00fc.png")
    (tmp_path / "tmp").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/proc/nowhere",
        "LC_ALL": "POSIX",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONOPTIMIZE": "2",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(tmp_path / "tmp"),
        "OMP_NUM_THREADS": "1",
    }
    return tmp_path, environment


@pytest.mark.timeout(120)
def test_a_place_with_nothing(bare: tuple[Path, dict[str, str]]) -> None:
    folder, environment = bare
    words = [sys.executable, "-c", CHILD, str(folder), str(Path(openmae.__file__).parent)]
    done = subprocess.run(
        words, env=environment, capture_output=True, cwd=folder, timeout=110, check=False
    )
    said = done.stdout.decode("ascii", "backslashreplace")
    assert done.returncode == 0, done.stderr.decode("ascii", "backslashreplace")[-3000:]
    codes = said[said.index("CODES") :]
    assert "[0, 0, 0, 0, 2]" in codes, said + done.stderr.decode(errors="replace")
    assert "'open'" in codes, "the hook saw nothing"
    assert "ascii" in codes, "the locale was UTF-8 after all"
    text = (folder / "run" / "data_files.txt").read_bytes()
    assert "caf\xe9".encode() in text
    assert b"Traceback" not in done.stderr
    left = [p.name for p in (folder / "tmp").iterdir()]
    assert [name for name in left if not name.startswith("torchinductor")] == []


def test_the_hook_would_see_a_socket(tmp_path: Path) -> None:
    """The same hook on a process that does what is not allowed."""
    hook = CHILD[: CHILD.index("assert sys.flags")]
    acts = (
        "import socket; socket.socket().connect(('192.0.2.1', 9))",
        "import socket; socket.getaddrinfo('example.org', 80)",
        "open('/proc/self/comm', 'w')",
    )
    for act in acts:
        code = f"{hook}\ntry:\n    {act}\nexcept RuntimeError as error:\n    print('CAUGHT', error)"
        words = [sys.executable, "-S", "-c", code, str(tmp_path), ""]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
        assert "CAUGHT" in done.stdout, act + done.stderr
