"""What stands in the code blocks of the documentation is run: commands and Python.

Every command runs with --dry-run on small data under the names of the pages, and must exit with 0
and write nothing; the slow tests run each page from its first line to its last, with small models.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import sandbox
from pagelines import PAGES, blocks, spans, told, words_of
from shortened import dry, place, short

import openmae
from openmae.cli import NO_DRY_RUN, main
from openmae.config import TASKS, command_of

pytest.importorskip("onnxscript", reason="the pages use the extras")
pytest.importorskip("faster_coco_eval", reason="the pages use the extras")

NOT_HERE = {
    "a scheduler: sbatch is on a login node": (
        "openmae ablate photos/ --preset fig5 --paper --slurm partition=gpu time=8h"
        " cpus_per_task=12 --jobs 20",
    ),
    "leaves out what the sentence before it names": (
        "openmae compare --methods mae beit",
        "openmae slurm --grace",
    ),
}
"""Why lines cannot run -> these lines. Everything else of the pages runs."""


def all_lines(page: Path) -> list[str]:
    """Of blocks, then of sentences: commands with words of their own, which are no measurement of
    a mistake.
    """
    own = [s for s in spans(page) if s.removeprefix("openmae ") not in TASKS]
    return [*told(page), *(s for s in own if "--no-such-option" not in s)]


LEFT_OUT = {line for lines in NOT_HERE.values() for line in lines}
LINES = [
    pytest.param(page.stem, line, id=f"{page.stem}:{line[8:70]}")
    for page in PAGES
    for line in dict.fromkeys(all_lines(page))
    if line not in LEFT_OUT
]


def test_what_does_not_run_is_still_told() -> None:
    on_pages = {line for page in PAGES for line in all_lines(page)}
    assert on_pages >= LEFT_OUT


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and pretrained runs under the names of the pages."""
    made = tmp_path_factory.mktemp("pages") / "base"
    made.mkdir()
    sandbox.data(made)
    sandbox.runs(made)
    return made


@pytest.fixture(scope="module")
def complete(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Also what lines of the pages make for later lines."""
    made = sandbox.copied(base, tmp_path_factory.mktemp("pages") / "complete", "")
    sandbox.products(made)
    return made


@pytest.fixture(scope="module")
def rooms(complete: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for the dry runs of a page."""
    root = tmp_path_factory.mktemp("rooms")
    return {p.stem: sandbox.copied(complete, root / p.stem, p.stem, True) for p in PAGES if told(p)}


@contextlib.contextmanager
def set_aside(path: Path | None, root: Path) -> Iterator[None]:
    """A run that another line made at the same place would be continued, and is not there."""
    if path is None or not path.exists():
        yield
        return
    path.rename(root / "aside")
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
        (root / "aside").rename(path)


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Every file with size and time."""
    found = ((Path(d) / n) for d, _, names in os.walk(root) for n in names)
    return {str(p): (s.st_size, s.st_mtime_ns) for p in found for s in (p.stat(),)}


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_dry_run_succeeds_and_writes_nothing(page, line, rooms, complete, monkeypatch, capsys):
    words = words_of(line)
    if command_of(words) == "quickstart":
        pytest.skip("has no dry run: the slow tests run it")
    room = rooms.get(page, rooms["README"])
    monkeypatch.chdir(room)
    with set_aside(place(words), room):
        before = files(room)
        assert main(dry(words)) == 0, capsys.readouterr().err
        if command_of(words) not in NO_DRY_RUN:
            assert files(room) == before


def answered(words: list[str]) -> None:
    """A server of the pages says its address, answers there, and ends by Ctrl-C."""
    command = [sys.executable, "-u", "-m", "openmae", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            address = next(m[0] for line in lines if (m := re.search(r"http://127\S+", line)))
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert b"<html" in answer.read()
        finally:
            process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 0


def ran(words: list[str], made: dict[Path, list[str]]) -> None:
    """A command, shortened. Where one with other words trained at the same place, the two are
    alternatives: the reader has one or the other; what the sandbox has there gives way too.
    """
    own, out = short(words), place(words)
    if out is not None and made.get(out) != words:
        shutil.rmtree(out, ignore_errors=True)
    serves = command_of(words) in ("demo", "watch") and "--static" not in words
    if serves:
        answered(own)
    else:
        assert main(own) == 0, " ".join(own)
    if out is not None:
        assert (out / "results.json").exists() or (out / "status.json").exists()
        made[out] = words


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [p for p in PAGES if told(p)], ids=lambda p: p.stem)
def test_a_page_runs_from_its_first_line_to_its_last(page, complete, tmp_path, monkeypatch):
    monkeypatch.chdir(sandbox.copied(complete, tmp_path / "room", page.stem))
    own = [words_of(line) for line in told(page) if line not in LEFT_OUT]
    made: dict[Path, list[str]] = {}
    for words in own:
        ran(words, made)


ALONE = ("tutorial", "python")
"""Pages whose Python needs no sandbox: test_docs.py runs it."""
PYTHON = [page for page in PAGES if blocks(page, "python") and page.stem not in ALONE]


@pytest.mark.parametrize("page", PYTHON, ids=lambda p: p.stem)
def test_python_blocks_run(page: Path, base: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(sandbox.copied(base, tmp_path / "room", page.stem))
    shutil.copy("a.jpg", "reconstruction.png")
    if page.stem == "README":
        shutil.rmtree("runs/photos")
        whole = openmae.pretrain

        def small(*given, epochs, **more):
            size = {"dim": 16, "depth": 1, "heads": 2, "decoder_dim": 16, "decoder_depth": 1}
            size |= {"decoder_heads": 2, "image_size": 32, "patch_size": 8, "workers": 0}
            return whole(*given, **more, **size, steps=1, batch_size=4, warmup_epochs=0)

        monkeypatch.setattr(openmae, "pretrain", small)
    space: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), space)


def test_there_are_lines_of_all_commands() -> None:
    assert len(LINES) > 100
    ran_of = {command_of(words_of(str(param.values[1]))) for param in LINES}
    assert set(TASKS) - ran_of <= {"models"}
