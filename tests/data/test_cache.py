"""The cache: where it lives, whole or not at all, never needed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from openmae.data import cache


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_where_it_lives(tmp_path, monkeypatch):
    assert cache.cache_folder() == tmp_path / "cache"
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    monkeypatch.delenv("OPENMAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg/openmae"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says: ignore it
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home/.cache/openmae"


def test_arrays_come_back(place):
    arrays = {"a": np.arange(6, dtype=np.uint16).reshape(2, 3), "words": np.array([b"x", b"yy"])}
    key = cache.key_of("test", "photos", 3)
    assert cache.read_arrays(key) is None
    assert cache.write_arrays(key, arrays)
    found = cache.read_arrays(key)
    assert found is not None
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert [p.name for p in place.iterdir()] == [f"{key}.npz"]  # nothing half-written is left


def test_json_comes_back():
    assert cache.read_json("x") is None
    assert cache.write_json("x", {"n": [1, None, "ü"]})
    assert cache.read_json("x") == {"n": [1, None, "ü"]}


def test_keys_tell_their_parts_apart():
    keys = {cache.key_of("a", *parts) for parts in (("x", "yz"), ("xy", "z"), ("xyz",), (1, 2))}
    assert len(keys) == 4
    assert cache.key_of("a", "x") == cache.key_of("a", "x")
    assert cache.key_of("a", "x") != cache.key_of("b", "x")
    assert cache.key_of("a", os.fsdecode(b"\xff"))  # a name that is not UTF-8


def test_objects_are_refused(place):
    with pytest.raises(TypeError, match="only numbers"):
        cache.write_arrays("x", {"a": np.array([{}], dtype=object)})
    place.mkdir()
    np.savez(place / "x.npz", a=np.array([{}], dtype=object))  # from somewhere else
    assert cache.read_arrays("x") is None


@pytest.mark.parametrize("content", [b"", b"no arrays", b"PK\x03\x04" + b"\0" * 50])
def test_a_damaged_entry_is_no_entry(place, content):
    place.mkdir()
    (place / "x.npz").write_bytes(content)
    (place / "x.json").write_bytes(content)
    assert cache.read_arrays("x") is None
    assert cache.read_json("x") is None
    assert cache.write_json("x", 1)
    assert cache.read_json("x") == 1


def test_every_cut_of_an_entry_is_seen(place):
    cache.write_arrays("x", {"a": np.arange(50)})
    whole = (place / "x.npz").read_bytes()
    for length in range(0, len(whole), 37):
        (place / "x.npz").write_bytes(whole[:length])
        assert cache.read_arrays("x") is None


def test_without_a_place_everything_still_works(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "file"))
    assert cache.cache_folder() is None
    assert not cache.write_json("x", 1)
    assert cache.read_json("x") is None
    assert not cache.write_arrays("x", {"a": np.zeros(1)})
    assert cache.read_arrays("x") is None


def test_a_full_disk_leaves_nothing(place, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", full)
    assert not cache.write_json("x", 1)
    assert list(place.iterdir()) == []


def test_the_longest_unused_go_first(place, monkeypatch):
    for number, name in enumerate("abc"):
        cache.write_json(name, "x" * 100)
        os.utime(place / f"{name}.json", (number, number))
    cache.read_json("a")  # used just now
    monkeypatch.setattr(cache, "CAP", 350)
    cache.write_json("d", "x" * 100)
    assert {p.stem for p in place.iterdir()} == {"a", "c", "d"}


def test_inside(tmp_path):
    assert cache.inside(tmp_path)
    assert not cache.inside(tmp_path / "photos")
