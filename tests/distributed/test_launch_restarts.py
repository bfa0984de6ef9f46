"""Ranks that are started again: after which faults, how often, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from fakeranks import command

from openmae.errors import DataError, DivergedError, MemoryLimitError, StorageError, UsageError
from openmae.launch import attempt, launch
from openmae.launch.ranks import RanksError


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a run."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(attempt, "GRACE", 2.0)
    (tmp_path / "out").mkdir()
    _config(tmp_path / "out", 8, None)
    return tmp_path / "out"


def _config(out: Path, resolved: int, micro_batch: int | str | None) -> None:
    values = {"micro_batch": micro_batch, "resolved": {"micro_batch": resolved}}
    (out / "config.yaml").write_text(yaml.safe_dump(values))


DIE = """
(OUT / f"attempt_{ATTEMPT}_{R}").touch()
if ATTEMPT < TIMES and R == 1:
    (OUT / f"port_{ATTEMPT}").write_text(os.environ["MASTER_PORT"])
    FAULT
if ATTEMPT < TIMES:
    time.sleep(0.1)
    rank.report(1, "lost rank 1", cause=False)
    sys.exit(1)
rank.report(0, more={"results": {"attempt": ATTEMPT}})
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def dying(times: int, fault: str = KILL) -> str:
    """Rank 1 meets a fault in each of the first attempts."""
    return DIE.replace("TIMES", str(times)).replace("FAULT", fault)


def attempts(out: Path) -> int:
    return len(list(out.glob("attempt_*_0")))


def test_a_killed_rank_starts_all_again(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "metrics.jsonl").write_text('{"step": 1207, "loss": 1.0}\n{"step": 13')
    body = f"checkpoint(1200)\n{dying(2)}"
    assert launch(command(out, body), 2, restarts=3) == {"attempt": 2}
    assert capsys.readouterr().err.splitlines() == [
        "openmae: rank 1 was killed (signal 9). At step 1,207: restart 1 of 3 from step 1,200",
        "openmae: rank 1 was killed (signal 9). At step 1,207: restart 2 of 3 from step 1,200",
    ]
    assert attempts(out) == 3
    assert (out / "port_0").read_text() != (out / "port_1").read_text()


def test_a_crash_and_a_hang_start_all_again(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fault = 'rank.report(1, "rank 1 hangs in all_reduce")\n    os._exit(1)'
    assert launch(command(out, dying(1, fault)), 2, restarts=1) == {"attempt": 1}
    said = capsys.readouterr().err
    assert said == ("openmae: rank 1 hangs in all_reduce. At step 0: restart 1 of 1 from step 0\n")


def test_restarts_are_counted(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MemoryLimitError) as caught:
        launch(command(out, dying(9)), 2, restarts=2)
    assert attempts(out) == 3
    assert "rank 1 was killed (signal 9), most often for memory" in str(caught.value)
    assert str(caught.value).endswith("No newer checkpoint after 2 restarts")
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_none_without_leave(out: Path) -> None:
    with pytest.raises(MemoryLimitError):
        launch(command(out, dying(1)), 2, restarts=0)
    assert attempts(out) == 1


def test_a_newer_checkpoint_starts_the_count_again(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saving = """
if ATTEMPT in (0, 2) and R == 0:
    checkpoint(10 * (ATTEMPT + 1))
newest = OUT / "checkpoints" / f"step_{10 * (ATTEMPT + 1):08d}" / "MANIFEST.json"
wait_for(lambda: ATTEMPT not in (0, 2) or newest.exists())
"""
    assert launch(command(out, saving + dying(4)), 2, restarts=2) == {"attempt": 4}
    told = [line.split(": ")[-1] for line in capsys.readouterr().err.splitlines()]
    assert told == [
        "restart 1 of 2 from step 10", "restart 2 of 2 from step 10",
        "restart 1 of 2 from step 30", "restart 2 of 2 from step 30",
    ]  # fmt: skip


def test_a_folder_without_a_manifest_is_no_checkpoint(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = f'(OUT / "checkpoints" / "step_00000099").mkdir(parents=True, exist_ok=True)\n{dying(1)}'
    launch(command(out, body), 2, restarts=1)
    assert "from step 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "kind"),
    [(2, UsageError), (3, DataError), (4, StorageError), (5, MemoryLimitError), (6, DivergedError)],
)
def test_errors_that_come_back_end_the_run(out: Path, code: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="an example"):
        launch(command(out, dying(1, f'rank.report({code}, "an example"); os._exit({code})')), 2, 3)
    assert attempts(out) == 1


@pytest.mark.parametrize("code", [75, 130])
def test_stops_are_no_faults(out: Path, code: int) -> None:
    body = f"(OUT / f'attempt_{{ATTEMPT}}_{{R}}').touch()\nrank.report({code})\nos._exit({code})"
    if code == 75:
        assert launch(command(out, body), 2, 3).exit_code == 75
    else:
        with pytest.raises(RanksError) as caught:
            launch(command(out, body), 2, 3)
        assert caught.value.exit_code == 130
    assert attempts(out) == 1


def test_a_crash_before_there_is_a_run_ends(out: Path) -> None:
    (out / "config.yaml").unlink()
    with pytest.raises(RanksError, match="a bug"):
        launch(command(out, dying(1, 'rank.report(1, "a bug"); os._exit(1)')), 2, 3)
    assert attempts(out) == 1
    for path in out.glob("attempt_*"):
        path.unlink()
    assert launch(command(out, dying(1)), 2, 3) == {"attempt": 1}, "but one that was killed goes on"


def test_out_of_memory_goes_on_where_the_run_takes_less(out: Path) -> None:
    _config(out, 8, "auto")
    lower = json.dumps(yaml.safe_dump({"micro_batch": "auto", "resolved": {"micro_batch": 4}}))
    fault = f'(OUT / "config.yaml").write_text({lower})'
    fault = f'time.sleep(0.3)\n    {fault}\n    rank.report(5, "memory"); os._exit(5)'
    with pytest.raises(MemoryLimitError):
        launch(command(out, dying(9, fault)), 2, 3)
    assert attempts(out) == 2, "lowered once, the second time it was not"


def test_a_stop_that_was_asked_for_is_not_started_again(out: Path) -> None:
    body = """
    import subprocess
    (OUT / f"attempt_{ATTEMPT}_{R}").touch()
    all_began()
    if R == 0:
        os.kill(os.getppid(), signal.SIGTERM)
    wait_for(rank.received)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    with pytest.raises(MemoryLimitError):
        launch(command(out, body), 2, 3)
    assert attempts(out) == 1
