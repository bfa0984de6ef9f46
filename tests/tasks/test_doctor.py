"""`openmae doctor`: what it finds on a healthy machine, what it says of a sick one, and that it
leaves nothing behind. Ranks and runs are stand-ins here; the real ones are in the slow test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openmae.cli import main
from openmae.tasks import doctor, doctorchecks, doctorruns
from openmae.tasks.doctorchecks import Finding

SEES = {
    "torch": "2.15.0", "cuda": None, "capability": "AVX2", "gpus": [], "mps": False, "nccl": False,
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder, on a machine whose ranks and runs are well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctorruns, "ranks", lambda _: (SEES, [Finding("gloo", "ok", "fine")]))
    monkeypatch.setattr(
        doctorruns, "short_runs", lambda _, device: iter([Finding("20 steps", "ok", device)])
    )
    return tmp_path


def levels(text: str) -> dict[str, str]:
    """Name -> level of the lines before the block."""
    lines = text.split("\nFor a bug report")[0].splitlines()
    return {line[9:21].strip(): line[:8].strip() for line in lines if line[0] != " "}


def test_all_is_well(here, cli_said):
    said = cli_said("doctor")
    assert said.code == 0, said.out
    found = levels(said.out)
    assert set(found) >= {"versions", "cores", "network", "disk", "disk rename", "gloo", "20 steps"}
    assert "FAILED" not in found.values()
    assert list(here.iterdir()) == []  # not even the folder of runs
    said = cli_said("doctor", "--quick", "--json")
    names = [c["name"] for c in json.loads(said.out)["checks"]]
    assert "gloo" in names
    assert "20 steps" not in names


def test_a_dry_run_tries_nothing(here, cli_said, monkeypatch):
    monkeypatch.setattr(doctorruns, "ranks", None)
    assert "nothing was written" in cli_said("doctor", "--dry-run").out


def test_the_block_has_no_names(here, cli_said, monkeypatch):
    home = here / "home" / "marie.curie"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "marie.curie")
    monkeypatch.setattr(doctor.socket, "gethostname", lambda: "node17")
    text = f"{home}/runs on node17, /scratch/marie.curie/x /home/pierre/y"
    monkeypatch.setattr(doctorruns, "ranks", lambda _: (SEES, [Finding("gloo", "ok", text)]))
    said = cli_said("doctor", "--quick", "--report", "bug.txt")
    block = Path("bug.txt").read_text()
    assert block in said.out
    assert "~/runs on HOST, /scratch/USER/x ~/y" in block
    assert "curie" not in block
    Path("bug.txt").write_text("years of work")
    again = cli_said("doctor", "--report", "bug.txt")
    assert (again.code, "refusing" in again.err) == (4, True)
    assert Path("bug.txt").read_text() == "years of work"


def test_exit_code_of_what_failed_first(here, cli_said, monkeypatch):
    bad = Finding("gpu 0", "FAILED", "no memory", "buy some", 5)
    monkeypatch.setattr(doctorruns, "ranks", lambda _: (SEES, [bad]))
    said = cli_said("doctor", "--quick")
    assert (said.code, "fix: buy some" in said.out) == (5, True)
    warned = Finding("gpu 0", "warning", "busy", "wait")
    monkeypatch.setattr(doctorruns, "ranks", lambda _: (SEES, [warned]))
    assert cli_said("doctor", "--quick").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_interrupted(here, cli_said, monkeypatch, number):
    seen = []

    def ranks(processes):
        seen.append(processes.start("sleeper", ["-c", "import time; time.sleep(60)"]))
        assert list(here.glob(".openmae-doctor-*"))
        os.kill(os.getpid(), number)
        time.sleep(5)
        raise AssertionError("the signal did not arrive")

    monkeypatch.setattr(doctorruns, "ranks", ranks)
    before = signal.getsignal(signal.SIGTERM)
    assert cli_said("doctor").code == 130
    assert seen[0].poll() == -signal.SIGKILL
    assert list(here.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_a_killed_doctor_left_goes_later(here, cli_said):
    old, new = here / ".openmae-doctor-old", here / ".openmae-doctor-new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (1, 1))
    assert cli_said("doctor", "--quick").code == 0
    assert list(here.iterdir()) == [new]


def test_a_folder_that_refuses(here, cli_said, monkeypatch):
    def refuse(**_):
        if _["dir"] == Path():
            raise PermissionError(13, "Permission denied")
        return real(**_)

    real = doctor.tempfile.mkdtemp
    monkeypatch.setattr(doctor.tempfile, "mkdtemp", refuse)
    said = cli_said("doctor")
    assert said.code == 4
    found = levels(said.out)
    assert (found["disk"], found["20 steps"]) == ("FAILED", "ok")  # tried elsewhere
    assert "cannot be written: Permission denied" in said.out


# The disk.


def named(folder: Path, name: str) -> Finding:
    return next(f for f in doctorchecks.disk(folder) if f.name == name)


def test_a_rename_that_is_not_whole(tmp_path, monkeypatch):
    def replace(source, target):
        if Path(source).is_dir():
            return real(source, target)
        Path(target).unlink()
        time.sleep(0.001)
        return real(source, target)

    real = os.replace
    monkeypatch.setattr(doctorchecks.os, "replace", replace)
    found = named(tmp_path, "disk rename")
    assert (found.level, found.code) == ("FAILED", 4)
    assert "a reader saw" in found.text


@pytest.mark.parametrize(
    ("fault", "words"), [(None, "a second owner is let in"), (OSError(37, "No locks"), "No locks")]
)
def test_locks_without_effect(tmp_path, monkeypatch, fault, words):
    def flock(*_):
        if fault:
            raise fault

    monkeypatch.setattr(doctorchecks.fcntl, "flock", flock)
    found = named(tmp_path, "disk lock")
    assert found.level == "FAILED"
    assert words in found.text


def test_a_full_disk_and_a_slow_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            doctorchecks.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left"))
        )
        found = named(tmp_path, "disk write")
        assert (found.level, found.code) == ("FAILED", 4)
        assert "No space left" in found.text
    monkeypatch.setattr(doctorchecks, "_SLOW_DISK", 1e15)
    assert "s a checkpoint" in named(tmp_path, "disk write").fix
    monkeypatch.setattr(doctorchecks, "_LITTLE_DISK", 1e18)
    assert named(tmp_path, "disk").level == "warning"


# The machine.


def test_versions_below_the_lowest(monkeypatch):
    assert doctorchecks.versions()[0].level == "ok"
    real = doctorchecks._version
    other = {"timm": "0.9.2", "simplejpeg": None, "numpy": "1.26.4"}
    monkeypatch.setattr(doctorchecks, "_version", lambda n: other.get(n, real(n)))
    found = doctorchecks.versions()[0]
    assert found.level == "FAILED"
    assert "timm>=" in found.fix
    assert "simplejpeg>=" in found.fix
    assert "numpy" not in found.fix


def test_shared_memory_and_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(doctorchecks, "_LITTLE_SHM", 1e18)
    assert "--shm-size" in doctorchecks.shared_memory(str(tmp_path))[0].fix
    assert doctorchecks.shared_memory("/nowhere") == []
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert doctorchecks.cores()[0].level == "warning"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(doctorchecks, "_quota", lambda: 0.5)
    assert "OMP_NUM_THREADS=1" in doctorchecks.cores()[0].fix
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    assert doctorchecks.network()[0].level == "FAILED"


def test_a_check_that_breaks_is_a_finding():
    found = doctorchecks.guarded("x", lambda: 1 / 0)
    assert (found[0].level, "ZeroDivisionError" in found[0].text) == ("FAILED", True)


@pytest.fixture
def cli_said(capsys):
    """Run a command in this process; code, output, errors."""

    class Said:
        def __init__(self, code, out, err):
            self.code, self.out, self.err = code, out, err

    def call(*words: str) -> Said:
        capsys.readouterr()
        code = main([str(w) for w in words])
        return Said(code, *capsys.readouterr())

    return call


# Everything real.


@pytest.mark.slow
def test_the_real_doctor(tmp_path):
    words = [sys.executable, "-m", "openmae", "doctor", "--report", "bug.txt", "--device", "cpu"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout
    assert "continued at a checkpoint, 20 steps, equal bits" in ended.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"bug.txt"}


@pytest.mark.slow
def test_the_real_doctor_is_interrupted(tmp_path):
    words = [sys.executable, "-m", "openmae", "doctor"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 200
    while not list(tmp_path.glob(".openmae-doctor-*/killed/checkpoints")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    assert process.stdout is not None
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []
