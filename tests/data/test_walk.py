"""The list of the files of a large folder is kept, and made anew when the folder changes."""

from __future__ import annotations

import os
import time

import pytest

from openmae.data import walk as module
from openmae.data.cache import cache_folder
from openmae.data.walk import walk


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twelve files in three folders, all changed long ago; ten files count as many."""
    monkeypatch.setattr(module, "MANY", 10)
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "images"
    for i in range(12):
        path = root / f"c{i % 3}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (root / "notes.txt").write_text("")
    age(root)
    return root


def age(root) -> None:
    for path in [root, *(p for p in root.rglob("*") if p.is_dir())]:
        os.utime(path, (time.time() - 60,) * 2)


class _Forbidden:
    def __init__(self, *_):
        raise AssertionError("walked again")


def test_a_second_look_does_not_walk(folder, monkeypatch):
    first = walk(folder)
    assert len(first.files) == 12
    monkeypatch.setattr(module, "_Walker", _Forbidden)
    again = walk(folder)
    assert list(again.files) == list(first.files) == sorted(first.files)
    assert (again.others, again.folders) == (first.others, first.folders) == ({".txt": 1}, 3)


def change_add(folder):
    (folder / "c1" / "new.png").write_bytes(b"")


def change_remove(folder):
    (folder / "c2" / "02.png").unlink()


def change_rename(folder):
    (folder / "c0" / "00.png").rename(folder / "c0" / "zz.png")


def change_new_folder(folder):
    (folder / "c0" / "deep").mkdir()
    (folder / "c0" / "deep" / "x.png").write_bytes(b"")


def change_no_folder(folder):
    for path in (folder / "c2").iterdir():
        path.unlink()
    (folder / "c2").rmdir()


CHANGES = [change_add, change_remove, change_rename, change_new_folder, change_no_folder]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change, folder):
    before = list(walk(folder).files)
    change(folder)
    now = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    assert list(walk(folder).files) == now != before


def test_a_folder_that_has_just_changed_is_not_kept(folder):
    change_add(folder)
    walk(folder)
    assert not list(cache_folder().glob("index-*"))


def test_a_link_to_nothing_may_come_alive_unseen_so_nothing_is_kept(folder):
    (folder / "c0" / "later.png").symlink_to(folder.parent / "later.png")
    age(folder)
    assert len(walk(folder).files) == 12
    (folder.parent / "later.png").write_bytes(b"")
    assert len(walk(folder).files) == 13


def test_few_files_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr(module, "MANY", 13)
    walk(folder)
    assert not list(cache_folder().glob("index-*"))


def test_a_damaged_cache_is_no_harm(folder):
    walk(folder)
    (kept,) = cache_folder().glob("index-*")
    kept.write_bytes(kept.read_bytes()[:-40])
    assert len(walk(folder).files) == 12


def test_nothing_is_written_into_the_data(folder, monkeypatch):
    monkeypatch.setenv("OPENMAE_CACHE", str(folder / "cache"))
    before = sorted(folder.rglob("*"))
    walk(folder)
    assert sorted(folder.rglob("*")) == before


def test_a_long_walk_says_how_far_it_is(folder, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", -1.0)
    said: list[str] = []
    walk(folder, said.append)
    assert said[-1].startswith("12 images found so far")
