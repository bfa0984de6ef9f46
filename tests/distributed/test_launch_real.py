"""`--gpus 2` and torchrun as a user starts them: whole processes, all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakeranks import alive, until
from fleet import free_port
from trials import SMALL, STEPS, command, losses, status

MAIN = """
import sys
from openmae.cli import main
code = main(sys.argv[1:])
print("heavy", sorted({"torch", "numpy"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
ALL = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
OPENMAE = [sys.executable, "-m", "openmae"]


def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return {**kept, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")}


def test_a_run_of_two_ranks(tmp_path: Path) -> None:
    """One object on standard output, no torch in the launcher, nothing left."""
    out = tmp_path / "run"
    words = [*command(out, steps=4, gpus=2), "--json"]
    said = subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(tmp_path),
    )
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) == json.loads((out / "results.json").read_text())
    assert said.stderr.splitlines()[-1] == "heavy []"
    assert said.stderr.count("Done ") == said.stderr.count("Out ") == 1
    assert "2 ranks" in said.stderr
    assert list((tmp_path / "tmp").glob("openmae-*")) == []


def children(pid: int) -> list[int]:
    """Every process below one, loader processes too."""
    below: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            below += [child, *children(child)]
    return below


@contextmanager
def running(
    tmp_path: Path, start: list[str], steps: int = 5, **more: object
) -> Iterator[tuple[subprocess.Popen[bytes], list[int], Path]]:
    """A long run that has done some steps: its process, all below it, and its log."""
    out, log = tmp_path / "run", tmp_path / "log"
    words = command(out, steps=100_000, workers=1, **more)  # type: ignore[arg-type]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*start, *words], stdout=file, stderr=file, env=environment(tmp_path)
        )
        pids: list[int] = []
        try:
            until(lambda: len(losses(out)) >= steps or process.poll() is not None, 120)
            assert process.poll() is None, log.read_text()
            pids = children(process.pid)
            assert len(pids) >= 4, "two ranks, each with a loader process"
            yield process, pids, log
        finally:
            process.kill()
            process.wait(30)
    until(lambda: not any(alive(pid) for pid in pids), 5)


def ranks_of(pids: list[int]) -> list[int]:
    """Those that were told a rank."""
    found = []
    for pid in pids:
        told = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        started = any(t.startswith(b"RANK=") for t in told) and b"openmae" in words
        if started and children(pid):
            found.append(pid)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("who", ["launcher", "rank", "group"])
def test_a_stop_of_the_launcher_and_its_ranks(tmp_path: Path, who: str) -> None:
    """F15."""
    with running(tmp_path, OPENMAE, gpus=2) as (process, pids, log):
        ranks = ranks_of(pids)
        assert len(ranks) == 2
        for pid in {"launcher": [process.pid], "rank": ranks[1:], "group": ranks}[who]:
            if who == "group":
                os.killpg(pid, signal.SIGTERM)
            else:
                os.kill(pid, signal.SIGTERM)
        assert process.wait(60) == 75, log.read_text()
    text, found = log.read_text(), status(tmp_path / "run")
    assert text.count("SIGTERM: saved step") == 1
    assert "Traceback" not in text
    assert "exited unexpectedly" not in text
    assert (found["state"], found["exit_code"], found["resumable"]) == ("stopped", 75, True)
    assert list((tmp_path / "tmp").glob("openmae-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("start", ["openmae", "torchrun"])
def test_nothing_outlives_a_killed_launcher(tmp_path: Path, start: str) -> None:
    """F15: nothing is alive after five seconds, which `running` looks at."""
    words, more = (OPENMAE, {"gpus": 2}) if start == "openmae" else (torchrun(), {})
    with running(tmp_path, words, **more) as (process, pids, _):
        assert all(alive(pid) for pid in pids)
        os.kill(process.pid, signal.SIGKILL)


def torchrun(*more: str) -> list[str]:
    return [*TORCHRUN, "--standalone", ALL, "--shutdown-timeout", "10", *more, "-m", "openmae"]


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 2])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_torchrun_stops(tmp_path: Path, restarts: int, name: str) -> None:
    """F15: torchrun makes 1 of 75, so a run that may be restarted by it ends with 0."""
    with running(tmp_path, torchrun("--max-restarts", str(restarts))) as (process, _, log):
        process.send_signal(signal.Signals[name])
        process.wait(60)
        text = log.read_text()
        assert f"{name}: saved step" in text, text
        assert text.count("saved step") == 1
    found = status(tmp_path / "run")
    assert (found["state"], found["exit_code"], found["reason"]) == ("stopped", 75, name)


@pytest.mark.slow
def test_torchrun_restarts_a_killed_rank(tmp_path: Path) -> None:
    """F18: with the attempt in the keys of the store."""
    with running(tmp_path, torchrun("--max-restarts", "2"), steps=12) as (process, pids, log):
        os.kill(ranks_of(pids)[1], signal.SIGKILL)
        killed_at = len(losses(tmp_path / "run"))
        until(lambda: "Continue" in log.read_text(), 120)
        until(lambda: len(losses(tmp_path / "run")) > killed_at + 20, 60)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert "SIGTERM: saved step" in log.read_text()


@pytest.mark.slow
def test_torchrun_shows_one_rank_and_the_errors_of_all(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [*torchrun(), *command(out, steps=4)]
    said = subprocess.run(
        words, capture_output=True, text=True, timeout=120, env=environment(tmp_path)
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("Done ") == 1
    words = [*torchrun(), *command(out, steps=4, mask_ratio=75)]
    said = subprocess.run(
        words, capture_output=True, text=True, timeout=120, env=environment(tmp_path)
    )
    assert said.returncode == 1
    told = [line for line in said.stderr.splitlines() if line.startswith("openmae: ")]
    assert len(told) == 1, "what every rank would say the first one says"
    assert "give a fraction, 0.75?" in told[0]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.05, 0.3, 0.8, 1.5, 2.5, 4.0, 6.0, 9.0])
def test_a_stop_at_any_time_of_the_start(tmp_path: Path, delay: float) -> None:
    """F13 of ranks: imports, joining, the look at the data."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        [*OPENMAE, *command(out, steps=100_000, gpus=2)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(tmp_path),
    )
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "SIGTERM: " in said
    assert status(out)["exit_code"] == 75


@pytest.mark.slow
def test_two_machines(tmp_path: Path) -> None:
    """Two torchruns that meet, as on two nodes: one run, one voice, one exit status."""
    out, port = tmp_path / "run", free_port()
    words = [*TORCHRUN[:-1], "1", "--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "x"]
    words += ["--rdzv-endpoint", f"127.0.0.1:{port}", ALL, "-m", "openmae", *command(out)]
    own = environment(tmp_path) | {"GLOO_SOCKET_IFNAME": "lo"}
    nodes = []
    for name in ("first", "second"):
        with (tmp_path / name).open("w") as log:
            nodes.append(subprocess.Popen(words, stdout=log, stderr=log, env=own))
    try:
        assert [node.wait(150) for node in nodes] == [0, 0], (tmp_path / "first").read_text()
    finally:
        for node in nodes:
            node.kill()
    said = [(tmp_path / name).read_text().count("Done ") for name in ("first", "second")]
    assert sorted(said) == [0, 1]
    assert status(out)["state"] == "done"
    assert len(losses(out)) == STEPS


CALL = """
import json, sys
import openmae
found = openmae.pretrain("digits", gpus=2, **json.loads(sys.argv[1]))
print(json.dumps([found, str(found.folder), found.exit_code]))
try:
    openmae.pretrain("nowhere", out=sys.argv[2], device="cpu", gpus=2)
except openmae.errors.DataError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_call_from_python(tmp_path: Path) -> None:
    settings = {**SMALL, "steps": 4, "out": str(tmp_path / "run")}
    words = [sys.executable, "-c", CALL, json.dumps(settings), str(tmp_path / "other")]
    said = subprocess.run(
        words, capture_output=True, text=True, timeout=150, env=environment(tmp_path)
    )
    assert said.returncode == 0, said.stderr
    results, error = said.stdout.splitlines()[-2:]
    told = json.loads((tmp_path / "run" / "results.json").read_text())
    assert json.loads(results) == [told, str(tmp_path / "run"), 0]
    assert error.startswith("nowhere does not exist")
    assert not (tmp_path / "other").exists()
