"""F5, F6, F11: the disk refuses a save. The earlier checkpoints stay, and training goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from injection import DISK_ERRORS, FaultyFile
from parts import batches, plan, run_folder, state

from openmae.engine import checkpoint, saving
from openmae.engine.loop import State, train
from openmae.engine.runfolder import RunFolder
from openmae.engine.signals import StopRequest
from openmae.errors import StorageError


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_PAUSE", 0.0)


def _train(run: RunFolder, stream: Any = None, **more: Any) -> State:
    made = state()
    with StopRequest() as stop:
        train(made, stream or batches(), plan(**more), run, stop)
    return made


def _sound(run: RunFolder) -> list[int]:
    paths = checkpoint.listed(run.checkpoints)
    assert all(checkpoint.problem(p) is None for p in paths)
    assert not [p for p in run.checkpoints.iterdir() if p.name.startswith(".")], "a rest is left"
    return [checkpoint.read(p).step for p in paths]


def _of_step(*steps: int) -> Any:
    marks = tuple(f"step_{step:08d}" for step in steps)
    return lambda path: any(mark in path.parent.name for mark in marks)


@pytest.mark.parametrize("number", DISK_ERRORS, ids=lambda n: errno.errorcode[n])
def test_two_saves_fail_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    run = run_folder(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        fault = FaultyFile(patch, _of_step(4, 6), number, after=100)
        made = _train(run, save_every=2, keep=2)
    assert fault.fired == (6 if number == errno.EIO else 2)  # an EIO is tried again, twice
    assert made.step == 12
    assert _sound(run) == [12, 10]
    said = capsys.readouterr().err
    assert said.count("training goes on") == 2
    for word in ("step 4", os.strerror(number), str(run.checkpoints), "needs", "free", "2 of 3"):
        assert word in said


@pytest.mark.parametrize("times", [1, 2])
def test_an_io_error_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], times: int
) -> None:
    run = run_folder(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        fault = FaultyFile(patch, _of_step(4), errno.EIO, times=times)
        _train(run, keep=9)
    assert fault.fired == times
    assert _sound(run) == [12, 8, 4]
    assert "not saved" not in capsys.readouterr().err


@pytest.mark.parametrize("after", [0, 1, 7, 64, 300, *(401 + 37 * k for k in range(15))])
def test_full_after_so_many_bytes(tmp_path: Path, after: int) -> None:
    run = run_folder(tmp_path)
    _train(run, total=4, save_every=2)
    made = state()
    made.step = 5
    with pytest.MonkeyPatch.context() as patch:
        fault = FaultyFile(patch, lambda p: p.name == "weights.safetensors", errno.ENOSPC, after)
        size = (run.checkpoints / "step_00000004" / "weights.safetensors").stat().st_size
        refused = pytest.raises(OSError, match="No space") if after < size else nullcontext()
        with refused:
            checkpoint.save(run.checkpoints, 5, made.method, None, made.ema, {})
    assert fault.fired == (after < size)
    assert _sound(run) == ([4, 2] if after < size else [5, 4, 2])


def test_a_limit_of_the_system_on_file_sizes(tmp_path: Path) -> None:
    """The real thing: the kernel refuses to write on."""
    run = run_folder(tmp_path)
    _train(run, total=4, save_every=2)
    size = (run.checkpoints / "step_00000004" / "weights.safetensors").stat().st_size
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
            made = state()
            checkpoint.save(run.checkpoints, 5, made.method, None, made.ema, {})
        except OSError as error:
            code = 10 if error.errno == errno.EFBIG else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10, "the limit never held"
    assert _sound(run) == [4, 2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("only who may mount can have a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert not shutil.disk_usage(path.parent).free


def test_a_disk_that_is_really_full(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(small_disk / "run")

    def filling() -> Iterator[dict[str, Any]]:
        for step, one in enumerate(batches()):
            if step == 5:
                _fill(small_disk / "others")
            yield one

    with pytest.raises(StorageError, match="No space left") as caught:
        _train(run, filling(), save_every=2)
    assert caught.value.exit_code == 4
    assert _sound(run) == [4, 2]
    assert "training goes on (2 of 3)" in capsys.readouterr().err


def test_stop_at_the_first(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        fault = FaultyFile(patch, _of_step(4), errno.ENOSPC)
        with pytest.raises(StorageError, match="step 4 not saved") as caught:
            _train(run, save_every=2, on_save_error="stop")
    assert (fault.fired, caught.value.exit_code) == (1, 4)
    assert _sound(run) == [2]


@pytest.mark.parametrize("keep", [2, 3])
def test_the_last_n_stay_while_saves_fail(tmp_path: Path, keep: int) -> None:
    """F11: the save after N good ones fails, and again; N can still be loaded."""
    run, steps = run_folder(tmp_path), [2 * (keep + 1), 2 * (keep + 2)]
    with pytest.MonkeyPatch.context() as patch:
        fault = FaultyFile(patch, _of_step(*steps), errno.ENOSPC, after=500)
        _train(run, total=steps[-1] + 1, save_every=2, keep=keep)
        assert fault.fired == 2
    assert len(_sound(run)) == keep
    with pytest.MonkeyPatch.context() as patch:
        FaultyFile(patch, _of_step(30), errno.ENOSPC)
        with pytest.raises(StorageError):
            _train(run, total=30, save_every=30)
    assert len(_sound(run)) == keep


def test_a_damaged_one_does_not_count(tmp_path: Path) -> None:
    """Two good ones stay beside one whose bits were flipped after it was saved."""
    run = run_folder(tmp_path)
    _train(run, total=6, save_every=2, keep=3)
    assert _sound(run) == [6, 4, 2]
    file = run.checkpoints / "step_00000006" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    made = state()
    made.step = 7
    checkpoint.save(run.checkpoints, 7, made.method, made.optimizer, made.ema, {})
    checkpoint.prune(run.checkpoints, 2)
    left = [p.name for p in checkpoint.listed(run.checkpoints)]
    assert left == ["step_00000007", "step_00000006", "step_00000004"]
    assert checkpoint.latest(run.checkpoints)[0].step == 7  # type: ignore[union-attr]


def test_status_that_cannot_be_written_is_no_failed_save(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        fault = FaultyFile(patch, lambda p: p.name == ".tmp-status.json", errno.ENOSPC)
        _train(run, save_every=2, keep=9)
    assert fault.fired == 6
    assert _sound(run) == [12, 10, 8, 6, 4, 2]
    assert "not saved" not in capsys.readouterr().err
