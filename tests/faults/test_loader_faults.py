"""F24, F25, F28: loader processes that are killed, run out of memory or wait for a drive."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from trials import Server, assert_same_run, command, left_over, status

from openmae.data.reading import Reading
from openmae.data.stream import loader
from openmae.engine.slow import Wait, Watch
from openmae.errors import DataError, MemoryLimitError


class Marked(torch.utils.data.Dataset[Any]):
    """Numbers; the process that makes `at` dies, or does what `how` says, `times` times."""

    def __init__(self, marks: Path, at: int, times: int, how: str = "kill") -> None:
        self.marks, self.at, self.times, self.how = marks, at, times, how
        marks.mkdir()

    def __getitem__(self, number: int) -> dict[str, Any]:
        before = len(list(self.marks.iterdir()))
        if number == self.at and before < self.times:
            (self.marks / str(before)).touch()
            self._fail()
        return {"number": number, "image": torch.full((2,), number)}

    def _fail(self) -> None:
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "memory":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**26, hard))
            bytearray(2**34)
        raise DataError("00.png: unreadable")


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    real = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(
        _MultiProcessingDataLoaderIter, "_try_get_data", lambda self: real(self, 0.2)
    )


@pytest.mark.parametrize("how", ["kill", "memory"])
@pytest.mark.parametrize("workers", [1, 2])
def test_one_loss_is_made_good(tmp_path: Path, how: str, workers: int) -> None:
    """The same batches in the same order, from new processes."""
    numbers = Marked(tmp_path / "marks", 5, 1, how)
    found = [batch["number"] for batch in loader(numbers, range(3, 12), workers)]
    assert len(list(numbers.marks.iterdir())) == 1, "the fault never fired"
    assert found == list(range(3, 12))


@pytest.mark.parametrize("how", ["kill", "memory"])
def test_the_second_loss_at_a_place_ends_it(tmp_path: Path, how: str) -> None:
    numbers = Marked(tmp_path / "marks", 5, 9, how)
    found: list[int] = []
    with pytest.raises(MemoryLimitError) as caught:
        found.extend(batch["number"] for batch in loader(numbers, range(12), 1))
    assert len(list(numbers.marks.iterdir())) == 2
    assert found == list(range(len(found)))
    assert len(found) <= 5
    assert caught.value.exit_code == 5
    text = str(caught.value)
    assert re.search(r"/dev/shm has [\d.]+ [MG]B, [\d.]+ [MG]B free", text)
    assert "--shm-size 8g" in text
    assert "--workers 0" in text


def test_losses_far_apart_are_each_made_good(tmp_path: Path) -> None:
    first = Marked(tmp_path / "marks", 3, 1)
    real, second = first.__class__.__getitem__, tmp_path / "second"

    def twice(self: Marked, number: int) -> Any:
        if number == 140 and not second.exists():
            second.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, number)

    class Twice(Marked):
        __getitem__ = twice

    again = Twice(tmp_path / "more", 3, 1)
    assert [b["number"] for b in loader(again, range(150), 1)] == list(range(150))
    assert second.exists()
    assert list(again.marks.iterdir())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_data_is_none_of_memory(tmp_path: Path, workers: int) -> None:
    numbers = Marked(tmp_path / "marks", 5, 9, "raise")
    with pytest.raises(DataError, match=r"^00\.png: unreadable$"):
        list(loader(numbers, range(12), workers))
    assert len(list(numbers.marks.iterdir())) == 1, "data are not read twice"


def test_a_loss_is_not_raised_in_the_middle_of_a_step(tmp_path: Path) -> None:
    """torch's handler of SIGCHLD would raise wherever the main thread is."""
    before = signal.getsignal(signal.SIGCHLD)
    numbers = Marked(tmp_path / "marks", 2, 1)
    stream = loader(numbers, range(8), 1)
    found = [next(stream)["number"]]
    until = time.monotonic() + 20
    while not list(numbers.marks.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.01)
    total = 0
    for i in range(300_000):  # a step, during which the signal comes
        total += i
    found += [batch["number"] for batch in stream]
    assert found == list(range(8))
    assert signal.getsignal(signal.SIGCHLD) == before


def test_a_run_goes_on_to_the_bit(trials: Server, whole: Path, tmp_path: Path) -> None:
    out, marks = tmp_path / "run", tmp_path / "marks"
    marks.mkdir()
    fault = {"step": 7, "times": 1, "marks": str(marks)}
    ended = trials.run(command(out, workers=2), faults={"kill_worker": fault})
    assert ended.code == 0, ended.text
    assert len(list(marks.iterdir())) == 1
    assert_same_run(out, whole)


def test_a_run_that_loses_them_again_is_safe(trials: Server, whole: Path, tmp_path: Path) -> None:
    out, marks = tmp_path / "run", tmp_path / "marks"
    marks.mkdir()
    fault = {"step": 7, "times": 9, "marks": str(marks)}
    ended = trials.run(command(out, workers=2), faults={"kill_worker": fault})
    assert ended.code == 5, ended.text
    assert len(list(marks.iterdir())) == 2
    assert "Traceback" not in ended.text
    assert status(out)["exit_code"] == 5
    assert 4 <= status(out)["step"] <= 7  # batches on their way may be lost with a process
    ended = trials.run(command(out, workers=0))
    assert ended.code == 0, ended.text
    assert left_over(out) == []
    assert (out / "encoder.safetensors").read_bytes() == (
        whole / "encoder.safetensors"
    ).read_bytes()


SMALL_SHM = """
import sys, torch
sys.path[:0] = {path!r}
from openmae.data.stream import loader
from openmae.errors import MemoryLimitError
class Large(torch.utils.data.Dataset):
    def __getitem__(self, number):
        return {{"image": torch.zeros(1 << 20)}}
torch.multiprocessing.set_sharing_strategy("file_descriptor")
try:
    list(loader(Large(), range(8), 2))
except MemoryLimitError as error:
    print("TOLD", error)
"""


@pytest.mark.slow
def test_shared_memory_is_full(tmp_path: Path) -> None:
    """F25, the real thing: /dev/shm of 1 MB in a mount namespace of its own."""
    script = tmp_path / "child.py"
    script.write_text(SMALL_SHM.format(path=sys.path))
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    words = ["unshare", "-m", "sh", "-c", f"{mount} && exec {sys.executable} {script}"]
    allowed = (
        shutil.which("unshare")
        and not subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode
    )
    if not allowed:
        pytest.skip("only who may mount can have a small /dev/shm")
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = done.stdout[done.stdout.index("TOLD") :]
    assert re.search(r"/dev/shm has 1\.0 MB, [\d.]+ MB free", told)
    assert "--shm-size" in told
    assert "--workers 0" in told


# Waiting.


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stalled_file_is_named(trials: Server, whole: Path, tmp_path: Path, workers: int) -> None:
    """F28: one image takes long; the run says which, and ends as if nothing had been."""
    from openmae.data.order import Order
    from openmae.data.sources import open_source

    out, row = tmp_path / "run", Order(0, 1437)(5 * 16 + 3)
    faults = {"stall": {"row": row, "seconds": 2.0}}
    ended = trials.run(command(out, workers=workers, bad_images="error"), faults=faults)
    assert ended.code == 0, ended.text
    told = re.findall(r"waiting for data \d s: (.*)", ended.text)
    assert told == [open_source("digits").path(row)], ended.text
    assert_same_run_but_settings(out, whole)


def assert_same_run_but_settings(out: Path, whole: Path) -> None:
    name = "encoder.safetensors"
    assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_when_it_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """At 30 s, then every 60 s; nothing once it is over, and the count begins anew."""
    clock = [0.0]
    monkeypatch.setattr("openmae.engine.slow.time.monotonic", lambda: clock[0])
    wait, said = Wait(30.0, lambda t: f"waiting {t}"), []

    def look(at: float) -> None:
        clock[0] = at
        wait.look(60.0)
        said.extend((at, line) for line in capsys.readouterr().err.splitlines())

    look(500.0)
    clock[0] = 0.0
    with wait:
        for at in (1, 29, 30, 31, 89, 90, 91, 149, 151, 400, 401):
            look(float(at))
    look(1000.0)
    clock[0] = 2000.0
    with wait:
        look(2029.0)
        look(2031.0)
    assert [at for at, _ in said] == [30, 90, 151, 400, 2031]
    assert said[0][1] == "openmae: waiting 30 s"


def test_the_thread_ends_with_its_watch(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch(again=0.05, look=0.01) as watch:
        wait = watch.add(0.02, lambda t: "slow")
        with wait:
            time.sleep(0.2)
    assert 2 <= capsys.readouterr().err.count("slow") <= 6
    assert watch._thread is not None
    assert not watch._thread.is_alive()


def test_what_is_read_is_told_across_a_fork() -> None:
    reading = Reading()
    assert reading.row(3) is None
    child = os.fork()
    if child == 0:
        context = reading.of(3)
        context.__enter__()(17)
        os._exit(0)
    os.waitpid(child, 0)
    assert reading.row(3) == 17
    assert reading.row(4) == 17, "of another step, when nothing is read for this one"
    with reading.of(4) as reads:
        assert reading.row(4) in (17, None)
        reads(2)
        assert reading.row(4) == 2
    assert reading.row(4) is None


def test_a_slow_disk_is_named(trials: Server, tmp_path: Path) -> None:
    faults = {"slow_save": {"first": 12, "seconds": 1.5}, "early": {"saving": 0.5}}
    ended = trials.run(command(tmp_path / "run", steps=13), faults=faults)
    assert ended.code == 0, ended.text
    assert re.search(r"saving step 12 in .*checkpoints takes 1 s already", ended.text)
