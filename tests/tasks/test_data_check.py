"""`openmae data check`, end to end: what is said, what is written, and that the data stay as they
are.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import openmae
from openmae.cli import main
from openmae.errors import DataError, StorageError, UsageError


def scene(seed: int, size: tuple[int, int] = (60, 48)) -> Image.Image:
    """A smooth picture that a seed chooses, with a little grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-5, 6, smooth.shape)).clip(0, 255).astype("u1"))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes, 6 and 2 images, a copy, a smaller copy, and four files that are not well."""
    root = tmp_path / "photos"
    for name in ("cat", "emu"):
        (root / name).mkdir(parents=True)
    for i in range(6):
        scene(i).save(root / f"cat/{i}.png")
    for i in range(6, 8):
        scene(i).save(root / f"emu/{i}.png")
    (root / "cat/copy.png").write_bytes((root / "cat/3.png").read_bytes())
    scene(4).resize((40, 32)).save(root / "emu/small.jpg", quality=70)
    (root / "cat/empty.png").touch()
    (root / "cat/text.png").write_text("no image")
    whole = (root / "cat/0.png").read_bytes()
    (root / "emu/cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (60, 48), (1, 2, 3)).save(root / "emu/flat.png")
    return root


def state(root: Path) -> str:
    """A hash of names, content and times of a tree."""
    digest = hashlib.sha256()
    for path in sorted([root, *root.rglob("*")]):
        found = path.lstat()
        digest.update(f"{path} {found.st_mode} {found.st_mtime_ns} {found.st_ctime_ns}".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def check(*words: object, **more) -> dict:
    return openmae.data_check(*words, **more)


def test_everything_at_once(photos, tmp_path, capsys):
    before = state(photos)
    found = check(photos, out=tmp_path / "report")
    said = capsys.readouterr().out
    assert state(photos) == before
    assert found.exit_code == 0
    assert (found["n"], found["readable"]) == (14, 11)
    assert {b["path"]: b["kind"] for b in found["bad"]} == {
        "cat/empty.png": "empty file",
        "cat/text.png": "unreadable",
        "emu/cut.png": "truncated",
    }
    assert found["constant"] == ["emu/flat.png"]
    pairs = [(p["kind"], p["path"], p["same_as"]) for p in found["duplicates"]["pairs"]]
    assert pairs == [("exact", "cat/copy.png", "cat/3.png"), ("near", "emu/small.jpg", "cat/4.png")]
    assert found["classes"]["largest"] == ["cat", 9]
    assert found["classes"]["images"] == {"cat": 9, "emu": 5}
    assert found["sizes"]["largest"] == [60, 48]
    assert found["channels"] == {"3": 11}
    assert len(said.splitlines()) <= 24
    for word in ("14 images", "3 cannot be read", "copy.png = cat/3.png", "openmae pretrain"):
        assert word in said


def test_the_files_of_a_report(photos, tmp_path):
    out = tmp_path / "new/report"
    found = check(photos, out=out)
    names = ["bad_files.jsonl", "duplicates.csv", "report.html", "report.json"]
    assert sorted(p.name for p in out.iterdir()) == names
    bad = [json.loads(line) for line in (out / "bad_files.jsonl").read_text().splitlines()]
    assert bad == found["bad"]
    with (out / "duplicates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["cat/copy.png", "emu/small.jpg"]
    assert json.loads((out / "report.json").read_text())["readable"] == 11
    check(photos, out=out)  # again into the same folder


def test_nothing_is_written_without_out(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    check(photos)
    assert sorted(tmp_path.rglob("*")) == before


def test_numbers_are_numpys(tmp_path):
    images = [np.asarray(scene(i)) for i in range(5)]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (group,) = check(tmp_path)["values"]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    assert group["mean"] == pytest.approx(pixels.mean(axis=0))
    assert group["std"] == pytest.approx(pixels.std(axis=0))
    assert group["low"] == pixels.min(axis=0).tolist()
    assert group["high"] == pixels.max(axis=0).tolist()


def test_strict_and_nothing_readable(photos, tmp_path, capsys):
    assert main(["data", "check", str(photos)]) == 0
    assert main(["data", "check", str(photos), "--strict"]) == 3
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.png").write_text("no image")
    assert main(["data", "check", str(tmp_path / "bad")]) == 3
    assert "None of 1 images" in capsys.readouterr().err
    for path in photos.rglob("*"):
        if path.name in ("empty.png", "text.png", "cut.png"):
            path.unlink()
    assert main(["data", "check", str(photos), "--strict"]) == 0


def test_json_is_one_object(photos, capsys):
    assert main(["data", "check", str(photos), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 14
    assert found["command"].startswith("openmae pretrain ")


def test_leakage(photos, tmp_path, capsys):
    test = tmp_path / "test"
    test.mkdir()
    (test / "a.png").write_bytes((photos / "cat/1.png").read_bytes())
    scene(7).resize((90, 72)).save(test / "b.jpg", quality=80)
    scene(500).save(test / "c.png")
    before = state(test)
    found = check(photos, against=test, out=tmp_path / "report")
    assert state(test) == before
    pairs = [(p["kind"], p["path"], p["same_as"]) for p in found["leakage"]["pairs"]]
    assert pairs == [("exact", "a.png", "cat/1.png"), ("near", "b.jpg", "emu/7.png")]
    assert (tmp_path / "report/leakage.csv").read_text().count("\n") == 3
    assert "3 images in" in capsys.readouterr().out
    exact = check(photos, against=test, near=False)
    assert (exact["leakage"]["near"], exact["duplicates"]["near"]) == (0, 0)


def test_a_part(photos):
    assert check(photos, look=5)["looked"] == 5
    assert check(photos, fraction=0.5)["looked"] == 7
    with pytest.raises(UsageError, match="replace each other"):
        check(photos, fraction=0.5, look=5)


@pytest.mark.parametrize("where", ["photos", "photos/report", "photos/cat/x"])
def test_no_report_within_the_data(photos, tmp_path, where):
    before = state(photos)
    with pytest.raises(StorageError, match="lies in the data set"):
        check(photos, out=tmp_path / where)
    assert state(photos) == before


def test_no_report_through_a_link_or_over_others(photos, tmp_path):
    (tmp_path / "link").symlink_to(photos / "cat")
    with pytest.raises(StorageError, match="lies in the data set"):
        check(photos, out=tmp_path / "link/report")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.docx").touch()
    with pytest.raises(StorageError, match=r"holds other files \(thesis\.docx"):
        check(photos, out=tmp_path / "mine")
    with pytest.raises(StorageError, match="is a file"):
        check(photos, out=tmp_path / "mine/thesis.docx")


def test_interrupted_and_continued(photos, monkeypatch, capsys):
    monkeypatch.setattr("openmae.data.stamps._RACE", -(10**18))
    from openmae.tasks.check import _Progress

    def stop(self: _Progress, done: int, total: int) -> None:
        self.done = done
        if done == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_Progress, "show", stop)
        assert main(["data", "check", str(photos)]) == 130
    said = capsys.readouterr()
    assert "stopped at 9 of 14 images" in said.err
    assert check(photos)["from_cache"] == 9


# Any source.


@pytest.mark.parametrize("kind", ["tar", "npy", "digits", "csv"])
def test_any_source(kind, photos, tmp_path):
    if kind == "tar":
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            archive.add(photos / "cat", "cat")
        assert len(check(tmp_path / "x.tar")["bad"]) == 2
    elif kind == "npy":
        np.save(tmp_path / "x.npy", np.stack([np.asarray(scene(i)) for i in (1, 2, 1)]))
        assert check(tmp_path / "x.npy")["duplicates"]["exact"] == 1
    elif kind == "csv":
        (tmp_path / "x.csv").write_text("path,label\nphotos/cat/1.png,a\nphotos/emu/6.png,b\n")
        assert check(tmp_path / "x.csv")["classes"]["count"] == 2
    else:
        assert check("digits", look=100)["sizes"]["largest"] == [8, 8]


# Words.


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("check photos", 2, "did you mean openmae data check?"),
        ("data chek photos", 2, "did you mean openmae data check?"),
        ("data check", 2, "DATA is missing"),
        ("data check photos --strickt", 2, "Did you mean --strict?"),
        ("data check nowhere", 3, "nowhere does not exist"),
    ],
)
def test_mistakes(words, code, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == code
    assert says in capsys.readouterr().err


def test_packed_and_array_data_are_described_as_they_are(tmp_path, capsys):
    """A PNG that packing made a JPEG of has no wrong name, and arrays have no format to count."""
    (tmp_path / "p").mkdir()
    for i in range(4):
        scene(i).save(tmp_path / f"p/{i}.png")
    openmae.pack(tmp_path / "p", tmp_path / "packed", mode="jpeg")
    assert "extension" not in check(tmp_path / "packed")["odd"]
    np.save(tmp_path / "x.npy", np.stack([np.asarray(scene(i)) for i in range(4)]))
    capsys.readouterr()
    check(tmp_path / "x.npy")
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"Data     4 images in {tmp_path / 'x.npy'}"


def test_data_alone_lists_its_commands(capsys):
    assert main(["data"]) == 0
    assert "check" in capsys.readouterr().out


def test_errors_are_raised_in_python(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        check(tmp_path / "nowhere")
