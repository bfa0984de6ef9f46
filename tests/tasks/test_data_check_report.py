"""`openmae data check`: advice that can be followed, and a page on which names are only text."""

from __future__ import annotations

import os
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import openmae
from openmae.cli import main
from openmae.data.advice import options


def scene(seed: int, size: tuple[int, int] = (60, 48)) -> Image.Image:
    """A smooth picture that a seed chooses, with a little grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-5, 6, smooth.shape)).clip(0, 255).astype("u1"))


def check(*words: object, **more) -> dict:
    return openmae.data_check(*words, **more)


# Advice.


def deep(root: Path, bands: int, dead: int | None = None) -> None:
    for i in range(4):
        image = np.random.default_rng(i).integers(0, 4000, (48, 48, bands), dtype=np.uint16)
        if dead is not None:
            image[..., dead] = 5
        layout = {"planarconfig": "contig"} if bands > 1 else {}
        tifffile.imwrite(root / f"{i}.tif", image.squeeze(), photometric="minisblack", **layout)


def save(root: Path, size: tuple[int, int], mode: str = "RGB") -> None:
    for i in range(4):
        scene(i, size).convert(mode).save(root / f"{i}.png")


ADVICE = [
    (lambda root: save(root, (300, 240)), ""),
    (lambda root: save(root, (100, 100)), "--image-size 96 --patch-size 8"),
    (
        lambda root: save(root, (28, 28), "L"),
        "--recipe cifar10 --image-size 28 --patch-size 2 --channels 1",
    ),
    (lambda root: save(root, (512, 128)), "--image-size 112 448 --patch-size 8"),
    (
        lambda root: deep(root, 1),
        "--recipe cifar10 --image-size 48 --patch-size 4 --channels 1 --value-range=0:4095",
    ),
    (
        lambda root: deep(root, 6, dead=2),
        "--recipe cifar10 --image-size 48 --patch-size 4 --bands 1 2 4 5 6 --value-range=0:4095",
    ),
]


@pytest.mark.parametrize(("make", "words"), ADVICE)
def test_the_advice_can_be_followed(make, words, tmp_path, capsys):
    root = tmp_path / "with space"
    root.mkdir()
    make(root)
    found = check(root)
    assert options(found) == words.split()
    typed = shlex.split(found["command"])
    assert typed[:3] == ["openmae", "pretrain", str(root)]
    tiny = "--dim 12 --depth 1 --heads 1 --decoder-dim 16 --decoder-depth 1 --decoder-heads 2"
    more = [*tiny.split(), "--steps", "2", "--batch-size", "4", "--device", "cpu", "--dry-run"]
    code = main([*typed[1:], "--out", str(tmp_path / "run"), *more])
    assert code == 0, capsys.readouterr().err


# The page.


class Page(HTMLParser):
    """Tags, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, set[str]] = {}
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")

    def handle_data(self, data):
        self.text += data


HOSTILE = [
    "<script>alert(1)<",
    'a"onmouseover="alert(1)',
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt;",
    "new\nline\u202egnp",
    os.fsdecode(b"not-\xff-utf8"),
]


def test_hostile_names_are_text(tmp_path):
    root = tmp_path / "<b>set"
    for name in HOSTILE:
        (root / name).mkdir(parents=True)
        (root / name / f"{name}.png").write_text("no image")
        scene(3).save(root / name / "twin.png")
    check(root, out=tmp_path / "report", against=root)
    for file in ("report.json", "bad_files.jsonl", "duplicates.csv", "leakage.csv"):
        (tmp_path / "report" / file).read_text(encoding="utf-8")
    text = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img", "iframe", "link", "object", "svg"} & set(page.tags)
    assert page.tags.count("b") == text.count("<b>")
    allowed = {"lang", "charset", "http-equiv", "content", "name", "class", "style", "scope"}
    allowed |= {"tabindex", "role", "aria-label"}
    assert page.attributes.keys() <= allowed
    for name in HOSTILE[:4]:
        assert f"{name}.png" in page.text
    assert "new\\nline\\u202egnp" in page.text
    policy = next(c for c in page.attributes["content"] if "default-src" in c)
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert not re.search(r"https?://|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text


def test_a_screen_of_hostile_names_stays_a_screen(tmp_path, capsys):
    for name in HOSTILE:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").write_text("no image")
        scene(3).save(tmp_path / name / ("x" * 200 + ".png"))
    assert main(["data", "check", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 24
    assert "\u202e" not in said
