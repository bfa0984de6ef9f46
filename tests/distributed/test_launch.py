"""The launcher with ranks that import no torch: exit codes, signals, root causes, no orphans."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from fakeranks import alive, began, command, start, until

from openmae.errors import DataError, MemoryLimitError
from openmae.launch import attempt, launch
from openmae.launch.ranks import RanksError


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of ranks go below this test, so that it can see what is left of them."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    for name in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def left(tmp_path: Path) -> list[str]:
    return [p.name for p in (tmp_path / "tmp").iterdir()]


def test_ranks_know_who_they_are_and_the_first_one_answers(tmp_path: Path, out: Path) -> None:
    body = """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
             "OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME")
    (OUT / f"told_{R}").write_text(json.dumps({n: os.environ.get(n) for n in names}))
    all_began()
    rank.report(0, more={"results": {"loss": 0.5}, "folder": str(OUT)})
    """
    found = launch(command(out, body), 3)
    assert (found, found.exit_code, found.folder) == ({"loss": 0.5}, 0, out)
    told = [__import__("json").loads((out / f"told_{r}").read_text()) for r in range(3)]
    assert [t.pop("RANK") for t in told] == ["0", "1", "2"]
    assert [t.pop("LOCAL_RANK") for t in told] == ["0", "1", "2"]
    assert told[0] == told[1] == told[2]
    assert told[0]["WORLD_SIZE"] == told[0]["LOCAL_WORLD_SIZE"] == "3"
    assert told[0]["OMP_NUM_THREADS"] == str(max(1, attempt.cores() // 3))
    assert told[0]["GLOO_SOCKET_IFNAME"] == "lo"
    assert left(tmp_path) == []


def test_only_the_first_rank_is_heard(tmp_path: Path, out: Path) -> None:
    body = """
    print("out of", R)
    print("noise of", R, file=sys.stderr)
    print(f"openmae: rank {R}: waits", file=sys.stderr)
    """
    with start(out, body, 3) as process:
        said, warned = process.communicate(timeout=60)
    assert process.returncode == 0, warned
    assert said == "out of 0\n"
    lines = sorted(warned.splitlines())
    assert lines == [
        "noise of 0", "openmae: rank 0: waits", "openmae: rank 1: waits", "openmae: rank 2: waits"
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_launcher_reaches_every_rank(
    tmp_path: Path, out: Path, number: signal.Signals
) -> None:
    with start(out, "save_when_asked()") as process:
        until(lambda: began(out))
        process.send_signal(number)
        _, warned = process.communicate(timeout=60)
    assert process.returncode == 75, warned
    assert [(out / f"told_{r}").read_text() for r in range(2)] == [number.name] * 2
    assert left(tmp_path) == []


def test_a_command_without_anything_to_save_ends(out: Path) -> None:
    body = """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    (OUT / f"ready_{R}").touch()
    time.sleep(60)
    """
    with start(out, body) as process:
        until(lambda: len(list(out.glob("ready_*"))) == 2)
        process.send_signal(signal.SIGTERM)
        _, warned = process.communicate(timeout=60)
    assert (process.returncode, warned) == (143, "openmae: ended by SIGTERM\n")


def test_a_signal_before_a_rank_can_answer_waits(out: Path) -> None:
    """Sent while Python itself starts, it would end the process with -15."""
    running = attempt.Attempt(command(out, "save_when_asked()"), 2, 0, out / "reports")
    running.start()
    running.send(signal.SIGTERM)
    ends = running.wait(lambda _: None)
    assert [end.code for end in ends] == [75, 75]


def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path, out: Path) -> None:
    body = """
    wait_for(rank.received)
    (OUT / f"told_{R}").touch()
    time.sleep(30)
    """
    with start(out, body) as process:
        until(lambda: began(out))
        pids = [int((out / f"began_{r}").read_text()) for r in range(2)]
        process.send_signal(signal.SIGINT)
        until(lambda: len(list(out.glob("told_*"))) == 2)
        assert process.poll() is None, "one Ctrl-C only asks"
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert time.monotonic() - begin < 3  # 0.1 s on an idle machine
    assert not any(alive(pid) for pid in pids)
    assert left(tmp_path) == []


def test_a_killed_launcher_leaves_no_process(tmp_path: Path, out: Path) -> None:
    with start(out, "rank.report(0)\nall_began()\ntime.sleep(60)", 3) as process:
        until(lambda: began(out, 3) and left(tmp_path))
        pids = [int((out / f"began_{r}").read_text()) for r in range(3)]
        assert all(alive(pid) for pid in pids)
        process.kill()
        process.wait(10)
        until(lambda: not any(alive(pid) for pid in pids), seconds=5)
    assert len(left(tmp_path)) == 1, "what its ranks wrote stays ..."
    launch(command(out, ""), 2)
    assert left(tmp_path) == [], "... until the next one begins"


def test_a_rank_whose_launcher_is_gone_does_not_begin(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*more: object) -> dict[str, str]:
        return real(*more) | {"OPENMAE_LAUNCHER": "1"}  # type: ignore[arg-type]

    real = attempt._environment
    monkeypatch.setattr(attempt, "_environment", other)
    with pytest.raises(RanksError):
        launch(command(out, ""), 2)
    assert not began(out, 1)


def test_the_cause_is_told_once_and_first(tmp_path: Path, out: Path) -> None:
    """The rank that lost its peer is heard of in no way, though it ended first."""
    body = """
    all_began()
    if R == 1:
        rank.report(3, "b.png cannot be read", cause=True)
        time.sleep(0.3)
        sys.exit(3)
    time.sleep(0.1)
    rank.report(1, "rank 0 lost another rank: Connection closed by peer", cause=False)
    sys.exit(1)
    """
    with start(out, body) as process:
        said, warned = process.communicate(timeout=60)
    assert (process.returncode, said) == (3, "")
    assert warned == "openmae: rank 1: b.png cannot be read\n"
    with pytest.raises(DataError, match=r"^rank 1: b\.png cannot be read$"):
        launch(command(out, body), 2)


def test_what_every_rank_says_is_said_once_without_a_rank(out: Path) -> None:
    body = "rank.report(3, 'photos does not exist', cause=True)\nsys.exit(3)"
    with pytest.raises(DataError, match=r"^photos does not exist$"):
        launch(command(out, body), 3)


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", 5), ("SIGBUS", 5), ("SIGSEGV", 1)])
def test_a_rank_killed_by_a_signal(out: Path, name: str, code: int) -> None:
    body = f"""
    all_began()
    if R == 1:
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.{name})
        signal.pause()
    time.sleep(0.2)
    raise RuntimeError("Connection closed by peer")
    """
    with pytest.raises(MemoryLimitError if code == 5 else RanksError) as caught:
        launch(command(out, body), 2)
    assert caught.value.exit_code == code
    number = signal.Signals[name].value
    assert str(caught.value).startswith(f"rank 1 was killed (signal {number})")
    assert ("most often for memory" in str(caught.value)) is (code == 5)
    assert "last words" in str(caught.value)


def test_ranks_that_do_not_end_are_ended(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "GRACE", 0.3)
    body = """
    all_began()
    if R == 0:
        rank.report(1, "ValueError: an example", cause=True)
        sys.exit(1)
    for name in rank.SIGNALS:
        signal.signal(name, lambda number, _: (OUT / f"told_{R}").write_text(str(number)))
    if R == 1:
        wait_for((OUT / "told_1").exists)
        sys.exit(0)
    while True:
        time.sleep(60)
    """
    begin = time.monotonic()
    with pytest.raises(RanksError, match="an example"):
        launch(command(out, body), 3)
    assert time.monotonic() - begin < 10
    assert (out / "told_1").read_text() == (out / "told_2").read_text() == "15"
    assert not alive(int((out / "began_2").read_text()))


def test_an_error_that_ranks_agree_on_leaves_time_to_save(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "GRACE", 0.1)
    body = """
    all_began()
    if R == 1:
        rank.report(3, "b.png cannot be read", cause=True)
        sys.exit(3)
    time.sleep(1)
    (OUT / "saved").touch()
    rank.report(3, "another rank has an error", cause=False)
    sys.exit(3)
    """
    with pytest.raises(DataError, match="png cannot be read"):
        launch(command(out, body), 2)
    assert (out / "saved").exists()


def test_a_crash_after_the_work_was_done_is_no_failure(out: Path) -> None:
    body = "rank.report(0, more={'results': {'n': R}})\nos.kill(os.getpid(), signal.SIGKILL)"
    assert launch(command(out, body), 2) == {"n": 0}


def test_under_nohup_a_terminal_may_go_away(out: Path) -> None:
    body = """
    all_began()
    wait_for((OUT / "over").exists)
    rank.report(0, more={"results": {"signals": [*rank.received()]}})
    """
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(out, body)
    finally:
        signal.signal(signal.SIGHUP, ignored)
    with process:
        until(lambda: began(out))
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        (out / "over").touch()
        _, warned = process.communicate(timeout=60)
    assert process.returncode == 0, warned
