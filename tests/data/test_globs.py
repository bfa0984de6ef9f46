"""Patterns as sources: what they match, how it is called, and what is said where nothing does."""

from __future__ import annotations

import pytest
from PIL import Image

from openmae.data.sources import open_source, open_split
from openmae.errors import DataError


def put(root, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), number).save(root / name)


def paths(source) -> list[str]:
    return [source.path(i) for i in range(len(source))]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """photos/ with two classes, a deeper folder, hidden and other files, and links in a circle."""
    put(tmp_path / "photos", "a.jpg", "cat/1.jpg", "cat/2.png", "dog/deep/3.jpg", "dog/4.jpg")
    put(tmp_path / "photos", ".hidden/5.jpg", "cat/.6.jpg")
    (tmp_path / "photos" / "cat" / "notes.txt").touch()
    (tmp_path / "photos" / "dog" / "up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "apes").symlink_to(tmp_path / "photos" / "dog")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("photos/**/*.jpg", ["a.jpg", "cat/1.jpg", "dog/4.jpg", "dog/deep/3.jpg"]),
        ("photos/**", ["a.jpg", "cat/1.jpg", "cat/2.png", "dog/4.jpg", "dog/deep/3.jpg"]),
        ("photos/*/*.jpg", ["apes/4.jpg", "cat/1.jpg", "dog/4.jpg"]),
        ("photos/*", ["a.jpg"]),
        ("photos/cat/*", ["1.jpg", "2.png"]),
        ("photos/[cd]*/[0-9].*", ["cat/1.jpg", "cat/2.png", "dog/4.jpg"]),
        ("photos/dog/**/[!4].jpg", ["deep/3.jpg", "up/a.jpg", "up/cat/1.jpg"]),
        ("photos/cat/.?.jpg", [".6.jpg"]),
        ("*/?.jpg", ["photos/a.jpg"]),
        ("photos/**/deep/**/*.jpg", ["dog/deep/3.jpg"]),
        ("./photos/../photos/cat/1.jp*", ["1.jpg"]),
    ],
)
def test_what_matches(here, pattern, names):
    source = open_source(pattern)
    assert paths(source) == names
    assert source.name == pattern
    assert [line.split("\t")[0] for line in source.listing()] == names
    assert source[0]["image"].shape == (4, 6, 1)
    assert paths(open_source(str(here / pattern))) == names


def test_class_folders_are_those_below_the_fixed_part(here):
    assert open_source("photos/*/*.*").classes == ["apes", "cat", "dog"]
    train, test = open_split("photos/[cd]*/**/*.*", fraction=0.5)
    assert train.classes == test.classes == ["cat", "dog"]
    assert open_source("photos/cat/*").classes == []


def test_a_name_that_is_there_is_no_pattern(here):
    put(here / "set[1]", "a.png")
    assert paths(open_source("set[1]")) == ["a.png"]
    assert paths(open_source("se*/*.png")) == ["set[1]/a.png"]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("photos/*.tif", r"^photos/\*.tif matches no image. photos has: a.jpg apes/ cat/ dog/$"),
        ("photos/**/*.txt", r"matches no image. It matches 1 .txt. Convert them to JPEG or PNG$"),
        ("photo/*.jpg", r"^photo does not exist. .* Did you mean photos\?$"),
        ("photos/a.jpg/*", r"^photos/a.jpg"),
    ],
)
def test_nothing_matches(here, pattern, text):
    with pytest.raises(DataError, match=text):
        open_source(pattern)
