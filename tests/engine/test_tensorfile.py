"""Our writer makes files that safetensors' own reader finds equal, and fails as a disk fails."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from openmae.engine import tensorfile
from openmae.engine.tensorfile import file_sha256, write_tensors, write_text

DTYPES = list(tensorfile._DTYPES)


def _values(dtype: torch.dtype) -> torch.Tensor:
    numbers = torch.arange(24).reshape(4, 6)
    return numbers % 2 == 0 if dtype == torch.bool else numbers.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reads_back_equal(tmp_path: Path, dtype: torch.dtype) -> None:
    path, values = tmp_path / "a.safetensors", _values(dtype)
    tensors = {
        "matrix": values,
        "transposed": values.T,
        "expanded": values[:1].expand(3, 6),
        "strided": values[::2, 1::2],
        "scalar": values[0, 1],
        "empty": values[:0],
        "name with / and \u00fc": values[1],
    }
    size, digest = write_tensors(path, tensors.items())
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor), name
    assert size == path.stat().st_size
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == file_sha256(path)


def test_odd_values_keep_their_bits(tmp_path: Path) -> None:
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45, torch.finfo().max])
    write_tensors(tmp_path / "a", [("x", odd)])
    found = load_file(tmp_path / "a")["x"]
    assert torch.equal(found.view(torch.int32), odd.view(torch.int32))


def test_gradients_and_no_tensors(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    write_tensors(tmp_path / "a", [("p", parameter)])
    assert torch.equal(load_file(tmp_path / "a")["p"], torch.ones(2))
    write_tensors(tmp_path / "b", [])
    assert load_file(tmp_path / "b") == {}


def test_metadata(tmp_path: Path) -> None:
    about = {"kind": "x", "timm": '{"a": "\u00fc"}'}
    write_tensors(tmp_path / "a", [("x", torch.zeros(1))], about)
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata() == about


def test_data_begin_at_a_multiple_of_eight(tmp_path: Path) -> None:
    for length in range(1, 12):
        path = tmp_path / str(length)
        write_tensors(path, [("n" * length, torch.zeros(1))])
        assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_an_existing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_tensors(path, [("x", torch.zeros(1))])
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_honours_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "a", [("x", torch.zeros(1))])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from openmae.engine.tensorfile import write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_tensors(Path(sys.argv[1]), [("x", torch.zeros(100_000))])
except OSError as error:
    print("errno", error.errno)
"""


def test_a_full_disk_surfaces_with_its_number(tmp_path: Path) -> None:
    words = [sys.executable, "-c", FULL, str(tmp_path / "a")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == f"errno {errno.EFBIG}", done.stderr
    assert (tmp_path / "a").stat().st_size <= 100_000  # the limit really was hit


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_an_error_of_fsync_is_not_swallowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tensorfile.os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        write_tensors(tmp_path / "a", [("x", torch.zeros(1))])
    assert caught.value.errno == number


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_small_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "status.json"
    write_text(path, "old")

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tensorfile.os, call, refuse)
        with pytest.raises(OSError, match="No space"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
    write_text(path, "new")
    assert path.read_text() == "new"
