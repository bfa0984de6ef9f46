"""The run folder: whose it is, who holds it, and that its small files are whole."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import yaml

from openmae.engine import runfolder
from openmae.engine.runfolder import Results, RunFolder, read_jsonl, require_space
from openmae.errors import StorageError


def _run(path: Path) -> RunFolder:
    run = RunFolder(path)
    with run.lock():
        run.status("running", 0, 10)
        run.write_config("pretrain", {"lr": 1e-4}, {"threads": 1})
    return run


def test_new_empty_and_ours(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "new").exists() is False
    assert RunFolder(tmp_path).exists() is False
    assert _run(tmp_path / "run").exists() is True


@pytest.mark.parametrize("name", ["cat.jpg", "config.yaml", "status.json", ".hidden", "data/x"])
def test_a_foreign_folder_is_refused(tmp_path: Path, name: str) -> None:
    """Also one that holds a config.yaml of something else: nothing of others is overwritten."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(StorageError, match="refusing") as caught:
        RunFolder(tmp_path).exists()
    assert name.split("/")[0] in str(caught.value)
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_as_out(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(StorageError, match="is a file"):
        RunFolder(tmp_path / "x").exists()
    with pytest.raises(StorageError, match="cannot be written"), RunFolder(tmp_path / "x/y").lock():
        pass
    assert (tmp_path / "x").read_text() == "mine"


def test_a_start_that_was_killed_is_no_foreign_folder(tmp_path: Path) -> None:
    for name in (".lock", "environment.json", "data_files.txt", ".tmp-status.json", "status.json"):
        (tmp_path / name).write_text("")
    assert RunFolder(tmp_path).exists() is False
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StorageError, match=r"thesis\.tex"):
        RunFolder(tmp_path).exists()


HOLD = """
import sys, time
from pathlib import Path
from openmae.engine.runfolder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(300)
"""


def test_the_lock_of_another_process(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    words = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            words_of = f"in use by pid {other.pid} on "
            with pytest.raises(StorageError, match=words_of) as caught, run.lock():
                pytest.fail("two hold the folder")
            assert os.uname().nodename in str(caught.value)
            assert run.exists()
        finally:
            other.send_signal(signal.SIGKILL)
        assert other.wait(30) == -signal.SIGKILL
    with run.lock():
        assert str(os.getpid()) in (run.path / ".lock").read_text()


def test_who_is_refused_the_lock_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two starts at once: the one that made the folder first but came second to the lock."""
    path = tmp_path / "run"
    first, second = RunFolder(path), RunFolder(path)
    with first.lock():
        (path / "environment.json").write_text("{}")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "exists", lambda self: self != path and os.path.exists(self))
            with pytest.raises(StorageError, match="in use"), second.lock():
                pytest.fail("two hold the folder")
        assert (path / "environment.json").exists()
        first.write_config("pretrain", {}, {})


def test_a_failed_start_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def start() -> None:
        with RunFolder(path).lock():
            (path / "environment.json").write_text("{}")
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        start()
    assert not path.exists()


def test_a_failure_after_the_start_leaves_the_run(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    with pytest.raises(ValueError, match="boom"), run.lock():
        raise ValueError("boom")
    assert run.exists()


def test_config_round_trip(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    assert run.read_config() == {"task": "pretrain", "lr": 1e-4, "resolved": {"threads": 1}}
    assert yaml.safe_load((run.path / "config.yaml").read_text())["lr"] == 1e-4


@pytest.mark.parametrize("text", ["", "a: [", "[1, 2]", "lr: 1", "\x00"])
def test_a_damaged_config_is_a_storage_error(tmp_path: Path, text: str) -> None:
    run = _run(tmp_path / "run")
    (run.path / "config.yaml").write_text(text)
    with pytest.raises(StorageError, match=r"config\.yaml"):
        run.read_config()


def test_read_status(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    run.status("stopped", 7, 10, "SIGTERM", 75)
    found = run.read_status()
    assert (found["state"], found["step"], found["resumable"]) == ("stopped", 7, True)
    assert (found["exit_code"], found["pid"]) == (75, os.getpid())
    run.status("done", 10, 10, exit_code=0)
    assert run.read_status()["resumable"] is False
    for text in (b"", b"{", b"[]", b"\xff"):
        (run.path / "status.json").write_bytes(text)
        assert run.read_status() == {}


def test_a_torn_last_line(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    for step in (1, 2, 3):
        run.append("metrics.jsonl", {"step": step, "loss": 0.1 * step})
    whole = run.metrics.read_text()
    run.metrics.write_text(whole[:-9])
    assert [r["step"] for r in read_jsonl(run.metrics)] == [1, 2]
    run.trim_metrics(2)
    run.append("metrics.jsonl", {"step": 3, "loss": 0.3})
    assert [r["step"] for r in read_jsonl(run.metrics)] == [1, 2, 3]
    assert run.metrics.read_bytes().count(b"\n") == 3


def test_trim_metrics_keeps_the_rest_to_the_bit(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    run.trim_metrics(5)  # no file yet
    rows = [{"step": s, "loss": 1 / 3 + s, "lr": 1e-17 * s} for s in range(1, 10)]
    for row in rows:
        run.append("metrics.jsonl", row)
    run.trim_metrics(6)
    assert read_jsonl(run.metrics) == rows[:6]
    run.trim_metrics(0)
    assert run.metrics.read_text() == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_is_strict(tmp_path: Path, value: float) -> None:
    run = _run(tmp_path / "run")
    for write in (run.write_json, run.append):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write("x.json", {"a": value})
    assert not (run.path / "x.json").exists() or (run.path / "x.json").read_text() == ""


def test_a_full_disk_costs_a_line_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fired = _run(tmp_path / "run"), []

    def refuse(*_: object, **__: object) -> None:
        fired.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", refuse)
    run.append("metrics.jsonl", {"step": 1})
    assert fired == [1]


def test_space_is_looked_at_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(runfolder.shutil, "disk_usage", lambda _: usage(9e9, 9e9, 1e9))
    require_space(tmp_path / "a/b/c", 200_000_000, 3)
    with pytest.raises(StorageError, match=r"has 1\.0 GB, the run needs 1\.1 GB"):
        require_space(tmp_path / "a/b/c", 250_000_000, 3)
    assert not (tmp_path / "a").exists()


def test_results_are_a_dict_with_a_folder(tmp_path: Path) -> None:
    found = Results({"loss": 1.0}, tmp_path, 75)
    assert json.loads(json.dumps(found)) == {"loss": 1.0}
    assert (found.folder, found.exit_code) == (tmp_path, 75)
