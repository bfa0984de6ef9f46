"""Requests to stop set a flag and nothing else; only a second Ctrl-C ends the process at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from openmae.engine.signals import StopRequest

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


@pytest.mark.parametrize("number", HANDLED)
def test_a_signal_sets_the_flag(number: signal.Signals) -> None:
    with StopRequest() as stop:
        assert stop.reason() is None
        os.kill(os.getpid(), number)
        assert stop.reason() == number.name
        assert stop.reason() == number.name


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(n) for n in HANDLED]
    with StopRequest():
        inside = [signal.getsignal(n) for n in HANDLED]
        assert all(a != b for a, b in zip(before, inside, strict=True))
    assert [signal.getsignal(n) for n in HANDLED] == before
    with pytest.raises(ValueError, match="boom"), StopRequest():
        raise ValueError("boom")
    assert [signal.getsignal(n) for n in HANDLED] == before


def test_the_stop_file(tmp_path: Path) -> None:
    (tmp_path / "STOP").touch()
    with StopRequest() as stop:
        stop.watch(tmp_path)
        assert not (tmp_path / "STOP").exists(), "one from before must not stop the next run"
        assert stop.reason() is None
        (tmp_path / "STOP").touch()
        assert stop.reason() == "STOP file"
        assert not (tmp_path / "STOP").exists()
        assert stop.reason() == "STOP file"


def test_the_time_limit() -> None:
    with StopRequest(0.05) as stop:
        begin = time.monotonic()
        while stop.reason() is None:
            assert time.monotonic() < begin + 30
            time.sleep(0.01)
        assert time.monotonic() - begin >= 0.05
        assert stop.reason() == "time limit"


def test_no_limit_and_a_long_one() -> None:
    with StopRequest() as none, StopRequest(3600) as long:
        assert none.reason() is None
        assert long.reason() is None


def test_a_clock_that_jumps_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest(3600) as stop:
        monkeypatch.setattr(time, "time", lambda: 4e9)
        assert stop.reason() is None


def test_outside_the_main_thread(tmp_path: Path) -> None:
    found: list[str | None] = []

    def body() -> None:
        with StopRequest() as stop:
            stop.watch(tmp_path)
            found.append(stop.reason())
            (tmp_path / "STOP").touch()
            found.append(stop.reason())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(30)
    assert found == [None, "STOP file"]


CHILD = """
import sys, time
from openmae.engine.signals import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    before = None
    while True:
        if stop.reason() != before:
            before = stop.reason()
            print(before, flush=True)
        time.sleep(0.01)
"""


@pytest.mark.parametrize(
    "before", [["SIGINT"], ["SIGTERM", "SIGINT"], ["SIGINT", "SIGTERM"]], ids="-".join
)
def test_a_second_ctrl_c_exits_at_once(before: list[str]) -> None:
    words = [sys.executable, "-c", CHILD]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            for name in before:
                child.send_signal(signal.Signals[name])
                assert child.stdout.readline() == f"{name}\n"
                assert child.poll() is None
            begin = time.monotonic()
            child.send_signal(signal.SIGINT)
            assert child.wait(30) == 130
            assert time.monotonic() - begin < 5
        finally:
            child.kill()
