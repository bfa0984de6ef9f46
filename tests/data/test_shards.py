"""Words that name archives: folders of them, patterns, ranges."""

from __future__ import annotations

import os

import pytest
from archives import folder, paths, photos, png, same, shards, tar

from openmae.data.shards import expand
from openmae.data.sources import open_source
from openmae.errors import DataError


def said(words: object) -> str:
    with pytest.raises(DataError) as found:
        open_source(str(words))
    assert len(str(found.value).splitlines()) <= 4
    return str(found.value)


def test_ranges():
    assert expand("a{8..10}") == ["a8", "a9", "a10"]
    assert expand("a{08..10}b{x,y}") == [f"a{n}b{c}" for n in ("08", "09", "10") for c in "xy"]
    assert expand("plain") == ["plain"]
    assert expand("{x..y}{1}") == ["{x..y}{1}"]


@pytest.mark.parametrize(
    "words", ["shards", "shards/*.tar", "shards/{000..002}.tar", "shards/00{0,1,2}.tar", "s*/**"]
)
def test_several_shards_are_the_folder(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    whole = open_source(str(folder(tmp_path / "folder", photos())))
    shards(tmp_path / "shards", photos(), 5)
    words = words.replace("**", "**/*.tar")
    source = open_source(words)
    assert same(source, whole)
    assert set(paths(source)) == {f"{i // 5:03d}.tar/{name}" for i, name in enumerate(photos())}
    assert source.name == words


def test_shards_below_folders_have_names_of_their_own(tmp_path):
    for part in ("x", "y"):
        tar(tmp_path / part / "0.tar", {"1.png": png(1)})
    source = open_source(str(tmp_path))
    assert paths(source) == ["x/0.tar/1.png", "y/0.tar/1.png"]
    assert list(source.listing()) == [f"{p}\t{len(png(1))}" for p in paths(source)]


def test_a_folder_with_loose_images_is_a_folder(tmp_path):
    folder(tmp_path, {"a.png": png(1)})
    tar(tmp_path / "b.tar", {"b.png": png(2)})
    assert paths(open_source(str(tmp_path))) == ["a.png"]


def test_words_that_match_nothing(tmp_path):
    shards(tmp_path, photos(), 6)
    assert said(f"{tmp_path}/{{000..003}}.tar") == (
        f"2 of the 4 files of {tmp_path}/{{000..003}}.tar do not exist. First: {tmp_path}/002.tar"
    )
    assert said(f"{tmp_path}/x*.tar") == (
        f"{tmp_path}/x*.tar matches no file. Check the folder and the pattern"
    )
    assert "from small to large" in said(f"{tmp_path}/{{5..1}}.tar")
    assert "from small to large" in said(f"{tmp_path}/{{0..99999999999}}.tar")
    assert "more than 100,000" in said(f"{tmp_path}/{{0..999}}/{{0..999}}.tar")
    assert "does not exist" in said(tmp_path / "gone.tar")
    os.mkfifo(tmp_path / "pipe.tar")
    assert said(tmp_path / "pipe.tar") == f"{tmp_path}/pipe.tar is not a regular file"
    (tmp_path / "link.tar").symlink_to(tmp_path / "link.tar")
    assert "link.tar" in said(tmp_path / "link.tar")
