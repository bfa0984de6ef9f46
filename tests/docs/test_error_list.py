"""The list of every error: read from the code, and true of the errors that are caused here."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from openmae.cli import main

EXT = Path(__file__).parents[2] / "docs" / "_ext"


@pytest.fixture
def listed(monkeypatch):
    monkeypatch.syspath_prepend(EXT)
    return importlib.import_module("messages")


def fits(text: str, said: str) -> bool:
    """Whether words are those of the list, with what is filled in."""
    parts = [re.escape(part) for part in re.split(r"\{[^}]*\}", text)]
    return bool(re.fullmatch(".*".join(parts), said))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, ["pretrain", "digits", "--predict", "0.5", "--dry-run"]),
        (2, ["pretrain", "digits", "--method", "byol", "--target", "hog", "--dry-run"]),
        (3, ["data", "check", "nothing"]),
        (4, ["knn", "run", "digits"]),
    ],
)
def test_what_is_said_is_in_the_list(listed, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("[]")
    assert main(words) == code
    said = " ".join(capsys.readouterr().err.split()).removeprefix("openmae: ")
    assert any(fits(m.text, said) for m in listed.messages() if m.code == code), said


def test_a_word_that_is_not_in_the_list_does_not_fit(listed):
    said = "this is not what any error of the project says"
    assert not any(fits(m.text, said) for m in listed.messages())


def test_every_code_has_its_chapter(listed):
    every, page = listed.messages(), listed.page()
    assert {m.code for m in every} == set(listed.TITLES)
    assert len(every) > 500
    chapters = re.split(r"^## (\d): ", page, flags=re.M)[1:]
    for code, text in zip(map(int, chapters[::2]), chapters[1::2], strict=True):
        assert all(m.text in text for m in every if m.code == code)
