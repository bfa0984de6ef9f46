"""Mistakes of `openmae pack`: each is said in words, with its exit code, and nothing is left."""

from __future__ import annotations

import shutil
from collections import namedtuple
from functools import partial
from pathlib import Path

import pytest
from data.pack_files import command, content, make_photos, make_set


@pytest.fixture
def say(capsys):
    return partial(command, capsys)


@pytest.fixture
def photos(tmp_path) -> Path:
    return make_photos(tmp_path / "photos")


def test_too_little_space_is_said_before(say, photos, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said = say("pack", photos, tmp_path / "out")
    assert said.code == 4
    assert "has 0.0 MB for the images" in said.err
    assert not (tmp_path / "out").exists()


def test_out_inside_the_data_is_refused(say, photos):
    for out in (photos, photos / "packed", photos / "a/../b"):
        said = say("pack", photos, out)
        assert said.code == 2
        assert f"such as {photos}-packed" in said.err
    assert say("pack", f"{photos}/a/*.jpg", photos / "a/packed").code == 2
    assert say("pack", photos, f"{photos}-packed").code == 0


def test_what_others_have_written_stays(say, photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    for out, code in ((tmp_path / "mine", 4), (tmp_path / "mine/thesis.txt", 4)):
        said = say("pack", photos, out)
        assert said.code == code
        assert "Name a new folder" in said.err
    assert content(tmp_path / "mine") == {"thesis.txt": b"years"}
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "in" / part)
    assert say("pack", tmp_path / "in", tmp_path / "mine").code == 4
    assert content(tmp_path / "mine") == {"thesis.txt": b"years"}


def test_other_options_are_refused(say, photos, tmp_path):
    say("pack", photos, tmp_path / "out", "--mode", "jpeg")
    said = say("pack", photos, tmp_path / "out", "--mode", "jpeg", "--quality", 80)
    assert said.code == 2
    assert "was packed with quality 90, not 80" in said.err
    (photos / "a/new.jpg").write_bytes((photos / "a/0.jpg").read_bytes())
    said = say("pack", photos, tmp_path / "out", "--mode", "jpeg")
    assert said.code == 3
    assert "holds other images (6, these are 7)" in said.err


@pytest.mark.parametrize("kind", ["deep", "float", "bands"])
def test_deep_images_are_not_for_jpeg(kind, say, tmp_path):
    root = make_set(kind, tmp_path / "in", 3)
    said = say("pack", root, tmp_path / "out", "--mode", "jpeg")
    assert said.code == 3
    assert said.err.strip().endswith("Give --mode lossless")
    assert not (tmp_path / "out").exists()
    assert say("pack", root, tmp_path / "out", "--mode", "lossless").code == 0


def test_a_folder_without_a_readable_image(say, photos, tmp_path):
    for path in photos.rglob("*.jpg"):
        path.write_bytes(b"text")
    said = say("pack", photos, tmp_path / "out")
    assert said.code == 3
    assert "can be read" in said.err
    assert not (tmp_path / "out").exists()


def test_a_nonexistent_folder_and_what_is_no_pack(say, photos, tmp_path):
    assert say("pack", tmp_path / "photo", tmp_path / "out").code == 3
    assert "Did you mean" in say("pack", tmp_path / "photo", tmp_path / "out").err
    assert say("pack", "--verify", tmp_path / "nowhere").code == 2
    said = say("pack", "--verify", photos)
    assert said.code == 3
    assert "is not packed, or not to the end" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["photos"], "name the folder to write too: openmae pack DATA OUT"),
        (["photos", "out", "--verify"], "--verify takes one folder"),
        (["photos", "out", "--shard-size", "1"], "give a size from 1KB to 1TB, such as 1GB"),
        (["photos", "out", "--shard-size", "9TB"], "give a size from 1KB to 1TB, such as 1GB"),
        (["photos", "out", "--quality", "101"], "less than or equal to 100"),
        (["photos", "out", "--mode", "jpg"], "Did you mean jpeg?"),
        (["photos", "out", "--short-side", "0"], "greater than or equal to 1"),
    ],
)
def test_words_that_do_not_fit(words, says, say):
    said = say("pack", *words)
    assert said.code == 2
    assert says in said.err
