"""The commonest mistakes with masks: each is made, its message read, its fix followed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_WORDS = """
    --steps 1 --batch-size 2 --warmup-epochs 0 --recipe tiny --workers 0 --head-dim 8
    --image-size 32 --out new --test-fraction 0.5
"""
QUICK = _WORDS.split()


def scenes(count: int = 6, values: tuple[int, ...] = (0, 1)) -> None:
    """img/ and msk/ side by side, of other names than those that are found."""
    for folder in ("img", "msk"):
        Path(folder).mkdir(exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)
        Image.fromarray(image).save(f"img/{i}.png")
        mask = np.array(values, np.uint8)[rng.integers(0, len(values), (40, 44))]
        Image.fromarray(mask).save(f"msk/{i}.png")


def rgb(number: int) -> None:
    colours = np.array([[0, 0, 0], [200, 0, 7]], np.uint8)
    mask = np.asarray(Image.open(f"msk/{number}.png"))
    Image.fromarray(colours[mask % 2]).save(f"msk/{number}.png")


def turned() -> None:
    Image.open("msk/2.png").rotate(90, expand=True).save("msk/2.png")


def odd_value() -> None:
    Image.fromarray(np.full((40, 44), 9, np.uint8)).save("msk/4.png")


def lossy() -> None:
    for path in list(Path("msk").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


def palette() -> list[str]:
    Path("p.txt").write_text("0 0 0 soil\n200 0 7 crop\n")
    return ["--palette", "p.txt"]


def nothing() -> list[str]:
    return []


def put_back() -> list[str]:
    scenes()
    return []


def renamed() -> list[str]:
    Path("mask").rename("msk")
    return []


def named() -> list[str]:
    Path("c.txt").write_text("soil\ncrop\n")
    return []


Row = tuple[Callable[[], object], list[str], int, tuple[str, ...], Callable[[], list[str]] | None]
TABLE: dict[str, Row] = {
    "24 colours": (
        lambda: [rgb(i) for i in range(6)], [], 3,
        ("msk/0.png: mask is RGB with 2 colours", "--palette", "convert it to class ids"), palette),
    "24 size": (
        turned, [], 3,
        ("1 of 6 masks are of another size", "msk/2.png is 40x44, its image 44x40", "turned?"),
        put_back),
    "no mask": (
        lambda: Path("msk/3.png").unlink(), [], 3,
        ("1 of 6 images have no mask (first: 3.png", "msk/3.png"), put_back),
    "out of range": (
        odd_value, ["--classes", "soil,crop"], 3,
        ("msk/4.png has the value 9", "2 classes (0 to 1)", "--ignore-label 9"),
        lambda: ["--ignore-label", "9"]),
    "one value": (
        lambda: scenes(values=(1,)), [], 3, ("hold the value 1 alone", ">= 2 classes"), put_back),
    "lossy": (lossy, [], 3, ("6 of 6 masks cannot be read", "msk/0.jpg: mask is a JPEG"), put_back),
    "no such folder": (
        lambda: Path("msk").rename("mask"), [], 3, ("msk does not exist", "Did you mean mask?"),
        renamed),
    "class file": (nothing, ["--classes", "c.txt"], 3, ("c.txt cannot be read",), named),
    "class names": (nothing, ["--classes", "a,a"], 3, ("a stands twice",), None),
    "both": (nothing, ["--classes", "a,b", "--palette", "p"], 2, ("the classes itself",), None),
    "scale": (nothing, ["--scale", "2", "0.5"], 2, ("--scale 2 0.5", "smaller one first"), None),
    "balanced": (nothing, ["--sampling", "balanced"], 2, ("have no class",), None),
    "size": (nothing, ["--image-size", "30"], 2, ("not a multiple of patch 8", "24 or 32"), None),
    "baseline": (nothing, ["--baseline", "--random-weights"], 2, ("--random-weights",), None),
    "head": (nothing, ["--head", "upernett"], 2, ("Did you mean upernet?",), None),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    scenes()
    return tmp_path


@pytest.mark.parametrize("row", TABLE)
def test_a_mistake_is_named_leaves_nothing_and_its_fix_works(row, here, cli, tiny_run):
    make, more, code, says, fix = TABLE[row]
    make()
    quick = list(QUICK)
    for flag in more[:1]:
        if flag in quick:
            at = quick.index(flag)
            del quick[at : at + 2]
    words = ["segment", tiny_run, "img", "--masks", "msk", *quick, *more]
    said = cli(*words)
    assert said.code == code, said.err
    assert 1 <= len(said.err.splitlines()) <= 4
    assert "Traceback" not in said.err + said.out
    for part in says:
        assert part in said.err
    assert not Path("new").exists()
    if fix is not None:
        fixed = cli(*words, *fix())
        assert fixed.code == 0, fixed.err
        assert Path("new/encoder.safetensors").is_file()


def test_models_that_are_no_segmenter(here, cli, tiny_run):
    said = cli("segment", "evaluate", tiny_run, "img", "--masks", "msk")
    assert (said.code, "is no segmenter yet. First: openmae segment" in said.err) == (4, True)
    said = cli("segment", "predict", tiny_run, "img", "-o", "img/out")
    assert (said.code, "in the folder of the images" in said.err) == (4, True)
    said = cli("segment", "predict", tiny_run, "img", "-o", "no/where")
    assert (said.code, "does not exist" in said.err) == (4, True)
    said = cli("segment", "img", tiny_run)
    assert (said.code, "Turn them round" in said.err) == (3, True)
    said = cli("segment", "evalute", "a", "b", "c")
    assert (said.code, len(said.err.splitlines()) <= 4) == (2, True)


def test_a_mask_that_breaks_later_is_named_and_the_run_goes_on(here, cli, tiny_run):
    words = ["segment", tiny_run, "img", "--masks", "msk", *QUICK]
    Path("msk/5.png").write_bytes(b"broken")
    said = cli(*words)
    assert said.code == 0
    assert "1 masks cannot be read and are left out (first msk/5.png" in said.err
    shutil.rmtree("new")
    said = cli(*words, "--bad-images", "error")
    assert said.code == 3
    assert "msk/5.png" in said.err
    assert "--bad-images skip" in said.err
