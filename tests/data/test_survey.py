"""What is measured of each file, in any number of processes, once until the file changes."""

from __future__ import annotations

import io
import os
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from openmae.data import cache, workers
from openmae.data import survey as surveys
from openmae.data.measure import measure
from openmae.data.sources import open_source
from openmae.data.survey import survey
from openmae.data.traits import Flag


@pytest.fixture(autouse=True)
def place(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("OPENMAE_CACHE", str(folder))
    return folder


def noise(*shape: int, seed: int = 0, top: int = 256, kind=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape).astype(kind)


def picture(*shape: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(noise(*shape, seed=seed))


@pytest.fixture
def old(monkeypatch) -> None:
    """The time of a change of an inode cannot be set: let any file count as old enough."""
    monkeypatch.setattr("openmae.data.stamps._RACE", -(10**18))


@pytest.fixture
def photos(tmp_path) -> Path:
    root = tmp_path / "photos"
    for i in range(7):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        picture(40, 50 + i, 3, seed=i).save(root / "ab"[i % 2] / f"{i}.png")
    return root


def encoded(image: Image.Image, kind: str, **more) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


@pytest.fixture
def mixed(photos):
    """Good files and bad ones."""
    (photos / "a/bad.png").write_text("no image")
    (photos / "b/empty.jpg").touch()
    tifffile.imwrite(photos / "b/deep.tif", noise(40, 50, 5, kind=np.uint16))
    return open_source(str(photos))


# Processes.


def same(a: surveys.Survey, b: surveys.Survey) -> bool:
    names = [n for n in a.rows.dtype.names if n != "stamp"]
    rows = all(np.array_equal(a.rows[n], b.rows[n]) for n in names)
    return rows and np.array_equal(a.stats, b.stats, equal_nan=True) and a.reasons == b.reasons


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_processes(count, mixed, monkeypatch):
    monkeypatch.setattr(workers, "_CHUNK", 4)
    alone, _ = survey(mixed, range(len(mixed)))
    assert same(alone, survey(mixed, range(len(mixed)), workers=count)[0])


def crash(source, row, full=True):
    if source.row_path(row) == "a/2.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return measure(source, row, full)


@pytest.mark.skipif(os.name != "posix", reason="ends a process by a signal")
def test_a_decoder_that_crashes_is_named_and_the_rest_is_measured(photos, monkeypatch):
    monkeypatch.setattr(workers, "measure", crash)
    monkeypatch.setattr(workers, "_CHUNK", 2)
    source = open_source(str(photos))
    for _ in range(2):  # not kept either: it may have been the machine
        table, _ = survey(source, range(7), workers=2)
        paths = [source.path(i) for i in np.flatnonzero(table.has(Flag.CRASHED)).tolist()]
        assert paths == ["a/2.png"]
        assert (table.rows["height"] == 40).sum() == 6


# The cache.


def test_a_second_look_measures_nothing(photos, old, monkeypatch):
    source = open_source(str(photos))
    first, known = survey(source, range(7))
    assert known == 0
    monkeypatch.setattr(workers, "measure", None)
    again, known = survey(open_source(str(photos)), range(7))
    assert known == 7
    assert same(first, again)
    part, known = survey(source.subset([5, 1]), [1, 0])
    assert known == 2
    assert same(part, first.take([1, 5]))


def test_a_changed_file_is_measured_again(photos, old):
    survey(open_source(str(photos)), range(7))
    source = open_source(str(photos))
    path = photos / source.path(3)
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-30] ^= 255
    path.write_bytes(bytes(data))  # of the same size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # and time
    table, known = survey(source, range(7))
    assert known == 6
    assert table.reasons[3]
    picture(64, 64, 3).save(path)
    table, known = survey(source, range(7))
    assert (known, int(table.rows["height"][3])) == (6, 64)


def test_a_file_of_this_moment_is_not_trusted(photos):
    assert survey(open_source(str(photos)), range(7))[1] == 0
    assert survey(open_source(str(photos)), range(7))[1] == 0


def test_the_age_of_a_file_counts(photos, monkeypatch):
    later = os.stat(photos / "a/0.png").st_ctime_ns + 10**10
    monkeypatch.setattr("openmae.data.stamps.time.time_ns", lambda: later)
    survey(open_source(str(photos)), range(7))
    assert survey(open_source(str(photos)), range(7))[1] == 7


def test_an_interrupted_look_goes_on(photos, old):
    source = open_source(str(photos))

    def stop(done: int, total: int) -> None:
        assert total == 7
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey(source, range(7), progress=stop)
    assert survey(source, range(7))[1] == 4


def test_headers_do_not_stand_in_for_pixels(photos, old):
    source = open_source(str(photos))
    quick, _ = survey(source, range(7), full=False)
    assert quick.has(Flag.HEADER_ONLY).all()
    assert len(quick.stats) == 0
    assert survey(source, range(7), full=False)[1] == 7
    whole, known = survey(source, range(7))
    assert known == 0
    assert not whole.has(Flag.HEADER_ONLY).any()
    assert survey(source, range(7), full=False)[1] == 7  # the other way round they do


def test_a_damaged_cache_is_forgotten(photos, old, place):
    source = open_source(str(photos))
    first, _ = survey(source, range(7))
    (entry,) = place.glob("survey-*.npz")
    with np.load(entry) as file:
        arrays = dict(file)
    for change in ({"stats": arrays["stats"][:-1]}, {"reasons_ends": arrays["reasons_ends"][:-1]}):
        cache.write_arrays(entry.stem, arrays | change)
        table, known = survey(source, range(7))
        assert known == 0
        assert same(first, table)


def test_a_cache_in_the_data_is_not_written(photos, old, monkeypatch):
    monkeypatch.setenv("OPENMAE_CACHE", str(photos / "cache"))
    for _ in range(2):
        assert survey(open_source(str(photos)), range(7))[1] == 0
    assert not (photos / "cache").exists()


@pytest.mark.parametrize("kind", ["zip", "npy", "csv"])
def test_other_sources_are_known_again_until_they_change(kind, photos, tmp_path, old):
    def make(seed: int) -> str:
        path = tmp_path / f"set.{kind}"
        path.unlink(missing_ok=True)
        if kind == "npy":
            np.save(path, noise(5, 40, 40, 3, seed=seed))
        elif kind == "csv":
            picture(40, 50, 3, seed=seed).save(photos / "a/0.png")
            path.write_text("path\n" + "\n".join(f"photos/{p}" for p in names))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for i in range(5):
                    data = encoded(picture(40, 40, 3, seed=seed + i), "PNG")
                    archive.writestr(f"{i}.png", data)
        return str(path)

    names = [p.relative_to(photos).as_posix() for p in sorted(photos.rglob("*.png"))]
    first = open_source(make(0))
    before, known = survey(first, range(len(first)))
    assert known == 0
    assert survey(open_source(str(tmp_path / f"set.{kind}")), range(len(first)))[1] == len(first)
    second = open_source(make(100))
    after, known = survey(second, range(len(second)))
    assert known == (len(first) - 1 if kind == "csv" else 0)
    assert not same(before, after)
