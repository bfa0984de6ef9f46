"""F31, F38: clocks that jump, and logs, terminals and pipes that fail."""

from __future__ import annotations

import errno
import io
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from injection import FaultyFile
from parts import batches, plan, run_folder, state
from trials import Server, assert_same_run, command, losses, status

from openmae.engine import checkpoint, log
from openmae.engine.log import Progress, put, say, warn
from openmae.engine.loop import train
from openmae.engine.runfolder import read_jsonl
from openmae.engine.signals import StopRequest

HOUR, YEAR = 3600.0, 365.25 * 86400


@pytest.mark.parametrize(
    ("offset", "frozen"), [(HOUR, False), (10 * YEAR, False), (0.0, True)], ids=str
)
def test_a_clock_that_jumps_or_stands_still(
    trials: Server, whole: Path, tmp_path: Path, offset: float, frozen: bool
) -> None:
    out = tmp_path / "run"
    hooks = {"faults": {"clock": {"offset": offset, "frozen": frozen}}}
    ended = trials.run(command(out), at_step=7, act={"signal": "SIGKILL"}, **hooks)
    assert ended.code == -9, ended.text
    ended = trials.run(command(out), **hooks)
    assert ended.code == 0, ended.text
    assert f"Continue {out} at step 6" in ended.text, "the newest by step, not by time"
    assert abs(status(out)["time"] - time.time()) > HOUR / 2, "the clock never jumped"
    assert_same_run(out, whole)
    for row in read_jsonl(out / "metrics.jsonl"):
        assert row.get("images_per_s", 1) > 0
        assert 0 <= row.get("data_share", 0) <= 1
    assert not re.search(r"left -|-\d+ s", ended.text)


def test_a_steady_clock_that_stands_still(tmp_path: Path, monkeypatch: Any) -> None:
    """Some virtual machines have one for a while: no division by nothing, no time below zero."""
    looks = [0]

    def still() -> float:
        looks[0] += 1
        return 5.0

    monkeypatch.setattr("openmae.engine.monitor.time.perf_counter", still)
    run = run_folder(tmp_path)
    with StopRequest() as stop:
        train(state(), batches(), plan(), run, stop)
    assert looks[0] > 12
    assert all(0 <= r["data_share"] <= 1 and r["images_per_s"] > 0 for r in read_jsonl(run.metrics))


def test_times_of_files_mean_nothing(tmp_path: Path) -> None:
    made = state()
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, made.method, made.optimizer, made.ema, {})
    for step, age in ((1, 0.0), (2, 9e8), (3, 4e9)):
        for path in [*(tmp_path / f"step_{step:08d}").iterdir(), tmp_path / f"step_{step:08d}"]:
            os.utime(path, (age, age))
    os.utime(tmp_path / "step_00000003", (1, 1))
    assert checkpoint.latest(tmp_path)[0].step == 3  # type: ignore[union-attr]


# Logs.


def test_a_full_disk_costs_lines_of_the_log(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    with pytest.MonkeyPatch.context() as patch, StopRequest() as stop:
        broken = ("metrics.jsonl", "anomalies.jsonl", ".tmp-status.json")
        fault = FaultyFile(patch, lambda p: p.name in broken, errno.ENOSPC)
        made = state()
        train(made, batches(0, frozenset({3})), plan(), run, stop)
    assert fault.fired >= 14
    assert made.step == 12
    assert checkpoint.latest(run.checkpoints)[0].step == 12  # type: ignore[union-attr]


def test_torn_lines_are_passed_over(trials: Server, whole: Path, tmp_path: Path) -> None:
    """A run whose logs were torn by a kill goes on, and its metrics are whole at the end."""
    out = tmp_path / "run"
    ended = trials.run(command(out), at_step=8, act={"signal": "SIGKILL"})
    assert ended.code == -9, ended.text
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 1.2')
    with (out / "anomalies.jsonl").open("ab") as file:
        file.write(b'\xff\xfe{"what"')
    assert trials.run(command(out)).code == 0
    assert losses(out) == losses(whole)
    (out / "anomalies.jsonl").unlink()
    assert_same_run(out, whole)


class _Closed(io.TextIOWrapper):
    """Standard output whose reader is gone, or whose disk is full."""

    def __init__(self, number: int) -> None:
        super().__init__(io.BytesIO(), encoding="ascii")
        self.number, self.fired = number, 0

    def fileno(self) -> int:
        self.fired += 1
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_nobody_reads_what_is_printed(monkeypatch: Any, number: int) -> None:
    gone = _Closed(number)
    monkeypatch.setattr(sys, "stdout", gone)
    monkeypatch.setattr(sys, "stderr", gone)
    say("Plan", "words")
    warn("words")
    with Progress(1) as progress:
        progress.show(ROW, 1.0)
    assert gone.fired == 3


def test_words_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as file:
        put("naïve \udcff ∞", file)
    assert (tmp_path / "log").read_bytes() == b"na\\xefve \\udcff \\u221e\n"


PIPED = """
import sys
sys.path[:0] = {path!r}
from test_clock_and_output import shown
shown(int(sys.argv[1]))
"""
ROW = {
    "step": 1, "epoch": 0.1, "loss": 1.5, "images_per_s": 100.0, "data_share": 0.1,
}  # fmt: skip


def shown(rows: int) -> None:
    """Print many rows of progress, as a run does."""
    log._EVERY = 0.0
    with Progress(rows) as progress:
        for step in range(rows):
            progress.show({**ROW, "step": step + 1}, 60.0)
    say("Done", "it is")


def test_a_pipe_whose_reader_ends() -> None:
    """`openmae ... | head`: exit 0, no complaint at the end of the interpreter."""
    words = [sys.executable, "-c", PIPED.format(path=sys.path), "3000"]
    made = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert made.stdout is not None
    assert "step 1/3,000" in made.stdout.readline()
    made.stdout.close()
    assert made.stderr is not None
    said = made.stderr.read()
    assert made.wait(60) == 0
    assert "Broken" not in said
    assert "Traceback" not in said
    made.stderr.close()


def _on_a_terminal(columns: int, term: str) -> str:
    """What a run prints on a terminal so wide."""
    pid, handle = pty.fork()
    if pid == 0:
        code = 1
        try:
            os.environ.update(COLUMNS=str(columns), LINES="20", TERM=term)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            shown(4)
            sys.stdout.flush()
            code = 0
        finally:
            os._exit(code)
    said = b""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            part = os.read(handle, 4096)
        except OSError:
            break
        if not part:
            break
        said += part
    os.close(handle)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    return said.decode()


def test_a_narrow_terminal() -> None:
    said = _on_a_terminal(20, "xterm")
    assert "\x1b" in said
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said).replace("\r", "\n").splitlines()
    assert any(line.startswith("step 1/4") for line in lines)
    assert max(len(line) for line in lines) <= 20


def test_a_dumb_terminal_has_plain_lines() -> None:
    said = _on_a_terminal(80, "dumb")
    assert "\x1b" not in said
    assert "step 1/4" in said


def test_no_control_characters_in_a_file(whole: Path, trials: Server) -> None:
    """What a run without a terminal prints, and everything it writes as text."""
    texts = [p.read_bytes() for p in trials.scratch.glob("trial-*.log")]
    texts += [p.read_bytes() for p in whole.rglob("*") if p.suffix in (".jsonl", ".yaml", ".json")]
    assert len(texts) > 8
    for text in texts:
        assert b"\x1b" not in text
        assert b"\r" not in text
