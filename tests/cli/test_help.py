"""Help, version, machine output, dry runs: what the command line promises whatever the task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import openmae
from openmae.config import TASKS, settings
from openmae.errors import DataError, OpenMAEError

LIGHT = """
import sys, time
from openmae.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
heavy = sorted({"torch", "timm", "torchvision", "sklearn", "numpy"} & set(sys.modules))
print("code", code, "heavy", heavy, file=sys.stderr)
"""


def process(*words: str, code: str | None = None, **more) -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "openmae"]
    whole = [sys.executable, *start, *words]
    return subprocess.run(whole, capture_output=True, text=True, timeout=120, **more)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--help", 0),
        ("pretrain --help", 0),
        ("probe --help", 0),
        ("--version", 0),
        ("pretrain --epoch 3", 2),
        ("pretain photos", 2),
        ("pretrain", 2),
        ("pretrain photos --mask-ratio 75", 2),
        ("pretrain photos --image-size 230 --patch-size 16", 2),
        ("pretrain photos --recipe nonsense", 2),
        ("knn run photos --k zero", 2),
    ],
)
def test_help_and_usage_errors_import_nothing_heavy(words, expected):
    said = process(*words.split(), code=LIGHT)
    assert said.stderr.splitlines()[-1] == f"code {expected} heavy []"
    assert "Traceback" not in said.stderr


def test_help_names_every_command_with_a_line(cli):
    said = cli("--help")
    assert said.code == 0
    for name, (_, line) in TASKS.items():
        family, _, word = name.rpartition(" ")
        if family in TASKS:  # a command by itself: its own help names those below it
            below = cli(family, "--help").out
            assert word in below
            assert line.split()[0] in below
            continue
        assert name in said.out
        assert line.split()[0] in said.out


@pytest.mark.parametrize("task", sorted(TASKS))
def test_help_of_a_command_names_every_setting(task, cli):
    said = cli(*task.split(), "--help")
    assert said.code == 0
    assert said.err == ""
    for name in settings(task).model_fields:
        assert "--" + name.replace("_", "-") in said.out or name.upper() in said.out
    assert "--json" in said.out


def test_no_words_at_all_show_the_help(cli):
    said = cli()
    assert said.code == 0
    assert "pretrain" in said.out


def test_version(cli):
    said = cli("--version")
    assert (said.code, said.out.strip()) == (0, openmae.__version__)


def test_python_dash_m_is_the_console_script():
    said = process("--version")
    assert (said.returncode, said.stdout.strip()) == (0, openmae.__version__)
    script = Path(sys.executable).with_name("openmae")
    if script.exists():
        again = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60)
        assert again.stdout == said.stdout


def one_object(text: str) -> dict:
    """The JSON object that is all of a text; NaN and infinities are no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    value = json.loads(text, parse_constant=refuse)
    assert isinstance(value, dict)
    assert len(text.splitlines()) == 1
    return value


def test_json_is_one_object_and_nothing_else(cli, tiny, tiny_run, tmp_path):
    photos = tiny_run.parent / "photos"
    run = ["pretrain", photos, "--out", tmp_path / "new", *tiny, "--steps", 2]
    commands = {
        "models": ["models", "vit_tiny"],
        "pretrain": run,
        "pretrain again": run,
        "knn": ["knn", tiny_run, photos, "--out", tmp_path / "knn"],
        "probe": ["probe", tiny_run, photos, "--out", tmp_path / "probe"],
        "embed": ["embed", tiny_run, photos, "-o", tmp_path / "x.npz"],
        "reconstruct": ["reconstruct", tiny_run, photos, "-o", tmp_path / "x.png"],
        "attention": ["attention", tiny_run, photos, "-o", tmp_path / "a.png"],
    }
    for name, words in commands.items():
        said = cli(*words, "--json")
        assert said.code == 0, name
        assert one_object(said.out)["n"] > 0, name
        assert said.err != "", name  # what a person would read goes there


def test_json_of_an_error_leaves_standard_output_empty(cli, tmp_path):
    said = cli("pretrain", tmp_path / "missing", "--json")
    assert said.code == 3
    assert said.out == ""
    assert "does not exist" in said.err


def test_a_dry_run_checks_everything_and_writes_nothing(
    cli, tiny, make_images, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    make_images(Path("photos"))
    before = sorted(tmp_path.rglob("*"))
    said = cli("pretrain", "photos", "--out", "new", *tiny, "--steps", 2, "--dry-run")
    assert said.code == 0
    assert "nothing was written" in said.out
    assert sorted(tmp_path.rglob("*")) == before
    assert cli("pretrain", "photos", *tiny, "--channels", 2, "--dry-run").code == 3
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_a_run_that_is_there_changes_nothing(cli, tiny, tiny_run):
    def state():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tiny_run.rglob("*")}

    words = ["pretrain", tiny_run.parent / "photos", "--out", tiny_run]
    before = state()
    for more in ([], ["--steps", 8, "--allow-change", "steps"]):
        assert cli(*words, *more, "--dry-run").code == 0
        after = {p: s for p, s in state().items() if p.name != ".lock"}
        assert {p: s for p, s in before.items() if p in after} == after


def test_debug_shows_the_traceback(cli, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        cli("pretrain", tmp_path / "missing", "--debug")
    said = process("knn", "run", "photos", "--k", "0", "--debug")
    assert said.returncode != 0
    assert "Traceback" in said.stderr
    said = process("knn", "run", "photos", "--k", "0")
    assert (said.returncode, len(said.stderr.splitlines())) == (2, 1)


def test_a_bug_is_not_dressed_up_as_a_mistake_of_the_user(cli, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("openmae.tasks.models.run", broken)
    with pytest.raises(ZeroDivisionError):
        cli("models")
    assert not issubclass(ZeroDivisionError, OpenMAEError)


def test_a_closed_pipe_is_no_error():
    pipe, end = os.pipe()
    os.close(pipe)
    with os.fdopen(end, "w") as closed:
        said = subprocess.run(
            [sys.executable, "-m", "openmae", "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert "Traceback" not in said.stderr
