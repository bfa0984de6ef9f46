"""How many ranks a command gets: asked for, refused, or already started by torchrun."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import openmae
from openmae import cli, rank
from openmae.config import TASKS, settings
from openmae.config.training import TrainingConfig
from openmae.engine.signals import StopRequest
from openmae.errors import DataError, LostPeerError, PeerError, UsageError
from openmae.launch import plan, ranks_to_start


@pytest.fixture(autouse=True)
def _no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "OPENMAE_REPORTS"):
        monkeypatch.delenv(name, raising=False)


def ranks(gpus: int | None, device: str = "cpu") -> int:
    return ranks_to_start(SimpleNamespace(gpus=gpus, device=device), lambda name: f"--{name}")


def test_one_process_unless_more_are_asked_for() -> None:
    assert [ranks(None), ranks(1), ranks(2), ranks(8)] == [1, 1, 2, 8]
    assert ranks_to_start(SimpleNamespace(device="cpu"), str) == 1, "a task without the setting"


@pytest.mark.parametrize(
    ("gpus", "device", "here", "said"),
    [
        (500, "cpu", 8, "at most"),
        (500, "auto", None, "at most"),
        (500, "auto", 0, "at most"),
        (2, "cuda", 1, "there is 1 GPU. Use --gpus 1, or --device cpu"),
        (5, "auto", 4, "there are 4 GPUs. Use --gpus 4, or --device cpu"),
        (2, "cuda", 0, "there are 0 GPUs. Use --device cpu"),
        (2, "cuda:1", 8, "is one device. Use --device cuda, or cpu"),
        (2, "mps", None, "is one device"),
        (1000, "gpu", None, "--device gpu is no device for ranks. Use --device cuda, or cpu"),
        (1000, "cuda", None, "GPUs cannot be counted here, and at most 16 ranks"),
    ],
)
def test_what_this_machine_has_not(
    monkeypatch: pytest.MonkeyPatch, gpus: int, device: str, here: int | None, said: str
) -> None:
    monkeypatch.setattr(plan, "count_gpus", lambda: here)
    with pytest.raises(UsageError, match=said) as caught:
        ranks(gpus, device)
    assert str(caught.value).startswith(f"--gpus {gpus}: ")


def test_a_rank_tells_what_the_launcher_cannot_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "count_gpus", lambda: None)
    assert ranks(4, "cuda") == 4
    monkeypatch.setattr(plan, "count_gpus", lambda: 8)
    assert [ranks(8, "cuda"), ranks(8, "auto")] == [8, 8]


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = tmp_path / "nvidia-smi"
    listed.write_text("#!/bin/sh\necho 'GPU 0: X (UUID: a)'\necho '  MIG 1g'\necho 'GPU 1: X'\n")
    listed.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert plan.count_gpus() == 2
    for text, count in (("", 0), ("-1", 0), ("3", 1), ("0,2,5", 3), ("GPU-a,GPU-b", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert plan.count_gpus() == count
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    listed.write_text("#!/bin/sh\nexit 9\n")
    assert plan.count_gpus() in (None, len(os.listdir("/proc/driver/nvidia/gpus")) if Path(
        "/proc/driver/nvidia/gpus").is_dir() else None)  # fmt: skip


def test_torchrun_decides_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert [ranks(None), ranks(4)] == [1, 1]
    with pytest.raises(UsageError, match=r"--gpus 2: torchrun started 4 ranks \(WORLD_SIZE\)"):
        ranks(2)


@pytest.mark.parametrize("task", ["pretrain", "finetune", "knn", "probe", "embed", "evaluate"])
def test_mistakes_are_told_once_before_any_rank_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    def none(*_: object) -> None:
        raise AssertionError("a rank was started")

    monkeypatch.setattr(cli, "launch", none)
    words = [task, "run", "digits"][: 2 if task == "pretrain" else 3]
    words += ["-o", "x.npz"] if task == "embed" else []
    assert cli.main([*words, "--gpus", "2", "--device", "cpu", "--workers", "-3"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert cli.main([*words, "--gpus", "0"]) == 2
    with pytest.raises(AssertionError, match="was started"):
        cli.main([*words, "--gpus", "2", "--device", "cpu"])


def test_a_signal_from_before_is_known_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {n: signal.getsignal(n) for n in rank.SIGNALS}
    monkeypatch.setattr(rank, "_received", [])
    try:
        rank.begin(["pretrain", "digits"])
        os.kill(os.getpid(), signal.SIGTERM)
        assert rank.received() == (signal.SIGTERM,)
        with StopRequest() as stop:
            assert stop.reason() == "SIGTERM"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with StopRequest() as stop:
        monkeypatch.setattr(rank, "_received", [])
    with StopRequest() as stop:
        assert stop.reason() is None


@pytest.mark.parametrize("task", TASKS)
def test_commands_that_save_keep_an_early_signal(
    monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """Any other one is ended by it, as it is without ranks."""
    kept: list[int] = []
    monkeypatch.setattr(rank.signal, "signal", lambda number, _: kept.append(number))
    rank.begin(["--debug", *task.split(), "run", "digits"])
    assert bool(kept) is issubclass(settings(task), TrainingConfig)


def test_who_tells_an_error_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(number: int, error: Exception, parted: bool = True) -> str:
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setattr(rank, "_alike", [not parted])
        rank.failed(error, str(error), 3)
        return capsys.readouterr().err

    monkeypatch.setenv("WORLD_SIZE", "2")
    assert told(0, DataError("x.png")) == "openmae: x.png\n"
    assert told(1, DataError("x.png")) == "openmae: rank 1: x.png\n"
    assert told(1, UsageError("--lr 0"), parted=False) == "", "rank 0 says the same"
    assert told(0, UsageError("--lr 0"), parted=False) == "openmae: --lr 0\n"
    assert told(0, LostPeerError("lost")) == told(1, PeerError(3)) == ""


@pytest.mark.parametrize(("restarts", "code"), [("0", 75), ("", 75), ("3", 0)])
def test_a_stop_is_no_failure_for_a_torchrun_that_restarts(
    monkeypatch: pytest.MonkeyPatch, restarts: str, code: int
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    assert rank.exit_status(75) == 75, "no rank"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [rank.exit_status(n) for n in (75, 0, 3)] == [code, 0, 3]
    monkeypatch.setenv("OPENMAE_REPORTS", "x")
    assert rank.exit_status(75) == 75, "our own launcher reads the code"


def test_the_first_report_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rank.report(1)
    assert not any(tmp_path.iterdir()), "nobody asked"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("OPENMAE_REPORTS", str(tmp_path / "reports"))
    rank.report(1, "rank 0 hangs", cause=True)
    rank.report(0)
    told = (tmp_path / "reports" / "rank_1.json").read_text()
    assert '"exit_code": 1, "message": "rank 0 hangs", "cause": true' in told
    rank.tell_folder(tmp_path)
    assert [p.name for p in (tmp_path / "reports").iterdir()] == ["rank_1.json"], "rank 0 does"


def test_a_call_from_python_starts_ranks_of_the_same_call(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(cli, "launch", lambda *given: told.extend(given) or "results")
    found = openmae.pretrain(Path("photos"), recipe="laptop", betas=(0.9, 0.99), gpus=3, restarts=7)
    assert found == "results"
    command, count, restarts = told
    assert (count, restarts) == (3, 7)
    assert command[:2] == [sys.executable, "-c"]
    assert command[3] == "pretrain"
    given = {"data": "photos", "betas": [0.9, 0.99], "gpus": 3, "restarts": 7}
    assert json.loads(command[4]) == [given, "laptop", False, []]
    again: list[object] = []
    monkeypatch.setattr(cli, "execute", lambda *given: again.extend(given))
    monkeypatch.setattr(sys, "argv", ["-c", *command[3:]])
    before = {n: signal.getsignal(n) for n in rank.SIGNALS}
    try:
        with pytest.raises(SystemExit) as ended:
            cli.rank_of_call()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended.value.code == 0
    assert again[:2] == ["pretrain", given]
    with pytest.raises(UsageError, match="gpus = needs settings that can be written as JSON"):
        openmae.pretrain("photos", gpus=2, mask=len)
