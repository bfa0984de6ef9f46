"""F12: saves in the background. The same bytes as a save that training waits for; one at a time; an
error is known within a step; what is found is never incomplete.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from injection import FaultyFile
from parts import assert_equal_bits, batches, bits, plan, run_folder, state
from trials import STEPS, Server, assert_same_run, checkpoints, command, left_over

from openmae.engine import checkpoint, saving
from openmae.engine.background import Snapshot, Writer
from openmae.engine.loop import State, train
from openmae.engine.runfolder import RunFolder
from openmae.engine.signals import StopRequest
from openmae.errors import StorageError


def _train(run: RunFolder, stream: Any = None, **more: Any) -> State:
    made = state()
    with StopRequest() as stop:
        train(made, stream or batches(), plan(**{"background": True, **more}), run, stop)
    return made


def _files(run: RunFolder) -> dict[str, bytes]:
    return {
        str(p.relative_to(run.path)): p.read_bytes()
        for p in run.checkpoints.rglob("*")
        if p.is_file()
    }


def test_the_files_are_the_same(tmp_path: Path) -> None:
    """Though every step after the copy changes all tensors while the thread still writes."""
    before, after = run_folder(tmp_path / "before"), run_folder(tmp_path / "after")
    one = _train(before, save_every=3, keep=9, background=False)
    with pytest.MonkeyPatch.context() as patch:
        slow = _slowed(patch, 0.05)
        two = _train(after, save_every=3, keep=9)
    assert slow == [3, 6, 9]
    assert_equal_bits(bits(one), bits(two))
    assert _files(before) == _files(after)
    assert len(_files(before)) == 4 * 4


def _slowed(patch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Every save in a thread waits before it writes; returns the steps that did."""
    real, steps = checkpoint.write, list[int]()

    def write(folder: Path, step: int, *more: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            steps.append(step)
            time.sleep(seconds)
        return real(folder, step, *more)

    patch.setattr(checkpoint, "write", write)
    return steps


def _watched(act: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    for step, one in enumerate(batches()):
        act(step)
        yield one


def test_training_goes_on_while_a_save_is_slow(tmp_path: Path) -> None:
    run, seen = run_folder(tmp_path), dict[int, list[str]]()

    def look(step: int) -> None:
        paths = checkpoint.listed(run.checkpoints)
        assert all(checkpoint.problem(p) is None for p in paths), f"step {step}"
        seen[step] = [p.name for p in paths]

    with pytest.MonkeyPatch.context() as patch:
        _slowed(patch, 0.3)
        _train(run, _watched(look), save_every=4)
    assert seen[5] == [], "step 5 began while step 4 was being saved"
    assert seen[9] == ["step_00000004"], "the save of step 8 waited for that of step 4"
    assert next(p.name for p in checkpoint.listed(run.checkpoints)) == "step_00000012"


def test_one_is_pending_at_most(tmp_path: Path) -> None:
    threads: list[int] = []

    def count(_: int) -> None:
        threads.append(sum(t.name == "openmae-save" for t in threading.enumerate()))

    with pytest.MonkeyPatch.context() as patch:
        steps = _slowed(patch, 0.05)
        _train(run_folder(tmp_path), _watched(count), save_every=1)
    assert steps == list(range(1, 12))
    assert max(threads) == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("openmae")]


def test_an_error_is_known_within_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, told = run_folder(tmp_path), dict[int, bool]()

    def look(step: int) -> None:
        time.sleep(0.05)  # the thread ends before the next step does
        told[step] = "step 4 not saved" in capsys.readouterr().err

    with pytest.MonkeyPatch.context() as patch:
        fault = FaultyFile(patch, lambda p: "step_00000004" in str(p), errno.ENOSPC)
        _train(run, _watched(look))
    assert fault.fired == 1
    assert [step for step, said in told.items() if said] == [5]
    assert [checkpoint.read(p).step for p in checkpoint.listed(run.checkpoints)] == [12, 8]


def test_three_errors_end_the_run(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        late = re.compile(r"\.tmp-step_0000(0003|0004|0005)")
        fault = FaultyFile(patch, lambda p: bool(late.match(p.parent.name)), errno.EDQUOT)
        with pytest.raises(StorageError, match=r"step 5 not saved.*quota") as caught:
            _train(run, _watched(lambda _: time.sleep(0.03)), save_every=1)
    assert (fault.fired, caught.value.exit_code) == (3, 4)
    latest = checkpoint.latest(run.checkpoints)[0]
    assert latest is not None
    assert latest.step not in (3, 4, 5)  # 2, or a later one that the disk took after all


def test_a_bug_of_the_thread_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write", lambda *_: {}["bug"])
        with pytest.raises(KeyError, match="bug"):
            _train(run_folder(tmp_path), _watched(lambda _: time.sleep(0.03)))


def test_too_little_memory_for_a_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "available", lambda _: 1000)
        steps = _slowed(patch, 0.0)
        _train(run)
    assert steps == []
    assert capsys.readouterr().err.count("saved while training waits") == 1
    assert checkpoint.latest(run.checkpoints)[0].step == 12  # type: ignore[union-attr]


def test_a_snapshot_is_a_copy_in_the_same_memory() -> None:
    first, snapshot = torch.arange(4.0), Snapshot()
    ((_, copy),) = snapshot.take({"f": [("a", first)]})["f"]
    first += 1
    assert copy.tolist() == [0, 1, 2, 3]
    ((_, again),) = snapshot.take({"f": [("a", first)]})["f"]
    assert again.data_ptr() == copy.data_ptr()
    assert again.tolist() == [1, 2, 3, 4]


def test_the_writer_keeps_an_error_until_asked() -> None:
    writer = Writer()
    assert writer.ended() is None
    writer.start(7, lambda: (_ for _ in ()).throw(OSError("full")))  # type: ignore[arg-type]
    ended = writer.wait()
    assert ended is not None
    assert (ended[0], str(ended[1])) == (7, "full")
    assert writer.wait() is None


@pytest.mark.parametrize("where", ["before", "within", "after"])
def test_killed_between_copy_and_commit(
    trials: Server, whole: Path, tmp_path: Path, where: str
) -> None:
    """The next start finds the checkpoint before or this one, never a half."""
    out = tmp_path / "run"
    words = command(out, save_in_background=True)
    ended = trials.run(words, faults={"kill_save": {"step": 9, "where": where}})
    assert ended.code == -9, ended.text
    found, notices = checkpoint.latest(out / "checkpoints")
    assert notices == []
    assert found is not None
    assert found.step == (9 if where == "after" else 6)
    assert bool(left_over(out)) is (where == "within")
    ended = trials.run(words)
    assert ended.code == 0, ended.text
    assert_same_run(out, whole)


def test_killed_while_the_last_ones_are_slow(trials: Server, whole: Path, tmp_path: Path) -> None:
    """F16: longer than a batch system waits. The run goes on from the one before."""
    out = tmp_path / "run"
    hooks = {"faults": {"slow_save": {"first": 12, "seconds": 30.0}}}
    started = trials.start(command(out), hooks=hooks)
    until = time.monotonic() + 60
    while not any(name.startswith(".tmp-step_00000012") for name in checkpoints(out)):
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(started[0], signal.SIGTERM)
    time.sleep(0.3)
    os.kill(started[0], signal.SIGKILL)
    ended = trials.wait(started)
    assert ended.code == -9, ended.text
    assert checkpoint.latest(out / "checkpoints")[0].step == 9  # type: ignore[union-attr]
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    assert f"at step 9 of {STEPS}" in ended.text
    assert_same_run(out, whole)
