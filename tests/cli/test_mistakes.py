"""The commonest mistakes before a run starts: each is made, its message read, its fix followed.

The rows are those of the table of mistakes in the project's notes on the user's experience.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

Words = list[str]


@dataclass(frozen=True)
class Mistake:
    """Files to make, words to type, what is to be said, and the words that the message leads to."""

    row: str
    make: Callable[[Callable[..., Path]], object]
    words: str
    code: int
    says: tuple[str, ...]
    fix: Callable[[str, Words], Words]


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"no {pattern!r} in {text!r}"
    return match[1]


def add(pattern: str) -> Callable[[str, Words], Words]:
    """Follow the flags in the message: they replace those typed, or are added."""

    def fix(text: str, words: Words) -> Words:
        return [*words, *found(pattern, text).split()]

    return fix


def instead(old: str, pattern: str) -> Callable[[str, Words], Words]:
    """Type what the message has in place of a word."""
    return lambda text, words: [found(pattern, text) if w == old else w for w in words]


def option(flag: str, pattern: str) -> Callable[[str, Words], Words]:
    """Give an option the value that the message names."""

    def fix(text: str, words: Words) -> Words:
        at = words.index(flag) + 1
        return [*words[:at], found(pattern, text), *words[at + 1 :]]

    return fix


def convert(make: str) -> Callable[[str, Words], Words]:
    """Put PNG images where the message asks for them."""

    def fix(text: str, words: Words) -> Words:
        shutil.copytree("good", make, dirs_exist_ok=True)
        return words

    return fix


def compressed(images: Callable[..., Path]) -> None:
    with tarfile.open("photos.tar.gz", "w:gz") as archive:
        archive.add(images(Path("good")), "photos")


def unpack(text: str, words: Words) -> Words:
    name = found(r"Run: gunzip -k (\S+),", text)
    plain = found(r"then give (\S+) beside it", text)
    Path(plain).write_bytes(gzip.decompress(Path(name).read_bytes()))
    return [plain if w == name else w for w in words]


def videos(images: Callable[..., Path]) -> None:
    for i in range(3):
        Path("photos", f"day{i}").mkdir(parents=True)
        Path("photos", f"day{i}", "x.psd").touch()
    Path("photos", "clip.mp4").touch()
    images(Path("good"))


def one_class(images: Callable[..., Path]) -> None:
    images(Path("photos", "all"), 4)
    images(Path("good", "other"), 4)


def good(images: Callable[..., Path]) -> None:
    images(Path("good"))


def size(images: Callable[..., Path]) -> None:
    images(Path("photos", "images"))
    Path("photos", "labels").mkdir()


RUN = "pretrain good --out new --steps 2"
TABLE = [
    Mistake("1", size, "pretrain photos/imgs --out new --steps 2", 3,
            ("photos/imgs does not exist", "photos has: images/ labels/", "Did you mean"),
            instead("photos/imgs", r"Did you mean (\S+)\?")),
    Mistake("2", videos, "pretrain photos --out new --steps 2", 3,
            ("photos has 0 images", "3 folders", "3 .psd", "1 .mp4", "JPEG or PNG"),
            convert("photos")),
    Mistake("3", compressed, "pretrain photos.tar.gz --out new --steps 2", 3,
            ("photos.tar.gz is a compressed tar", "no random access"), unpack),
    Mistake("4", lambda images: images(Path("small"), 6, (28, 28)),
            "pretrain small --out new --steps 2 --image-size 224 --patch-size 16", 3,
            ("6 of 6 images", "32 px", "median 28", "--patch-size"),
            add(r"Try (--image-size \d+ --patch-size \d+)")),
    Mistake("5", good, f"{RUN} --image-size 230 --patch-size 16", 2,
            ("--image-size 230 is not a multiple of patch 16", "224 or 240"),
            option("--image-size", r"Nearest: (\d+)")),
    Mistake("many ranks", good, f"{RUN} --gpus 500 --device cpu", 2,
            ("--gpus 500: at most", "ranks on this machine's CPU"),
            option("--gpus", r"--gpus (\d+) for one process")),
    Mistake("6 percent", good, f"{RUN} --mask-ratio 75", 2,
            ("--mask-ratio 75", "give a fraction", "allowed 0.05-0.95"),
            option("--mask-ratio", r"fraction, ([\d.]+)\?")),
    Mistake("6 all", good, f"{RUN} --mask-ratio 1", 2,
            ("--mask-ratio 1", "allowed 0.05-0.95"),
            option("--mask-ratio", r"allowed ([\d.]+\d)-")),
    Mistake("6 none", good, f"{RUN} --mask-ratio 0", 2,
            ("--mask-ratio 0", "allowed 0.05-0.95"),
            option("--mask-ratio", r"allowed ([\d.]+\d)-")),
    Mistake("6 few patches", good, f"{RUN} --mask-ratio 0.95", 2,
            ("mask ratio 0.95 keeps 0 of 16 patches",),
            option("--mask-ratio", r"at most ([\d.]+\d)")),
    Mistake("8", good, f"{RUN} --device cuda", 2,
            ("--device cuda", "torch"), instead("cuda", r"Use --device (\w+)")),
    Mistake("8 attention", good, f"{RUN} --device cpu --attention cudnn", 2,
            ("--attention cudnn", "no such kernel", "cpu in float32"),
            option("--attention", r"Use (\w+)")),
    Mistake("8 products", good, f"{RUN} --device cpu --precision bf16 --products onednn", 2,
            ("--products onednn", "single precision on a CPU", "bf16 on cpu"),
            option("--products", r"Use (\w+)")),
    Mistake("9", lambda images: images(Path("gray"), 6, (40, 44), True),
            "pretrain gray --out new --steps 2", 3,
            ("1 channel (all 6)", "model expects 3"), add(r"Add (--channels \d)")),
    Mistake("14", good, "pretrain good --out new --epoch 1", 2,
            ("--epoch is not an option of pretrain", "Did you mean --epochs?"),
            instead("--epoch", r"Did you mean (--[a-z]+)\?")),
    Mistake("15 command", good, RUN.replace("pretrain", "pretain"), 2,
            ("pretain: did you mean pretrain?",), instead("pretain", r"did you mean (\w+)\?")),
    Mistake("15 model", good, f"{RUN} --model vit_tny_patch16_224", 2,
            ("vit_tny_patch16_224", "openmae models", "vit_tiny_patch16_224"),
            instead("vit_tny_patch16_224", r"Closest: (\w+)")),
    Mistake("23 knn", one_class, "pretrain photos --out new --steps 2 --knn", 3,
            ("Only one class folder (photos/all)", ">= 2"), convert("photos")),
]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sized(words: str, tiny: list[str]) -> list[str]:
    """The words of a mistake with a very small model, unless they themselves give that option."""
    own = words.split()
    pairs = [tiny[i : i + 2] for i in range(0, len(tiny), 2)]
    return [*own, *(w for pair in pairs if pair[0] not in own for w in pair)]


@pytest.mark.parametrize("case", TABLE, ids=lambda case: f"row {case.row}")
def test_a_mistake_is_named_leaves_nothing_and_its_fix_works(
    case, here, cli, tiny, make_images, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    case.make(make_images)
    words = sized(case.words, tiny)
    said = cli(*words)
    assert said.code == case.code, said.err
    assert 1 <= len(said.err.splitlines()) <= 4
    assert "Traceback" not in said.err + said.out
    for part in case.says:
        assert part in said.err
    assert not Path("new").exists()
    fixed = cli(*case.fix(said.err, words))
    assert fixed.code == 0, fixed.err
    assert Path("new", "encoder.safetensors").is_file()


@pytest.mark.parametrize("command", ["knn", "probe"])
def test_row_23_one_class_cannot_be_scored(command, here, cli, tiny_run, make_images):
    make_images(Path("photos", "all"), 10)
    said = cli(command, tiny_run, "photos", "--out", "score")
    assert said.code == 3
    assert len(said.err.splitlines()) <= 4
    assert "Only one class folder (photos/all)" in said.err
    assert f"{command} needs >= 2" in said.err
    assert not Path("score").exists()
    make_images(Path("photos", "other"), 10)
    assert cli(command, tiny_run, "photos", "--out", "score").code == 0


def test_row_13_an_encoder_file_has_no_decoder(here, cli, tiny_run):
    photos = tiny_run.parent / "photos"
    alone = Path(shutil.copy(tiny_run / "encoder.safetensors", here / "mine.safetensors"))
    said = cli("reconstruct", alone, photos, "-o", "picture.png")
    assert said.code == 4
    assert len(said.err.splitlines()) <= 4
    assert "no decoder" in said.err
    assert "run folder" in said.err
    assert not Path("picture.png").exists()
    assert cli("reconstruct", tiny_run, photos, "-o", "picture.png").code == 0


def test_row_13_names_the_run_beside_the_encoder_file(here, cli, tiny_run):
    photos = tiny_run.parent / "photos"
    said = cli("reconstruct", tiny_run / "encoder.safetensors", photos, "-o", "picture.png")
    assert said.code == 4
    assert cli("reconstruct", found(r"reconstruct needs (\S+)", said.err), photos).code == 0


def test_row_20_a_nearly_full_disk_is_refused_before_the_start(
    here, cli, tiny, make_images, monkeypatch
):
    make_images(Path("good"))
    words = ["pretrain", "good", "--out", "new", *tiny, "--steps", "2"]
    needed = re.compile(r"needs ([\d.]+) MB for 3 checkpoints")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    said = cli(*words)
    assert said.code == 4
    assert len(said.err.splitlines()) <= 4
    for part in ("has 0.1 MB", "--keep 2", "--out elsewhere"):
        assert part in said.err
    assert not Path("new").exists()
    megabytes = float(found(needed.pattern, said.err))
    free = int(megabytes * 1e6 * 0.85)  # enough for two and one being written, not for three
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert cli(*words).code == 4
    assert cli(*words, *found(r"(--keep 2)", said.err).split()).code == 0


@pytest.mark.parametrize("row", ["1", "14", "15 command"])
def test_the_same_in_a_process_of_its_own(row, here, tiny, make_images):
    case = next(c for c in TABLE if c.row == row)
    case.make(make_images)
    words = sized(case.words, tiny)
    whole = [sys.executable, "-m", "openmae", *words]
    said = subprocess.run(whole, capture_output=True, text=True, timeout=120)
    assert said.returncode == case.code
    assert len(said.stderr.splitlines()) <= 4
    assert "Traceback" not in said.stderr
    assert all(part in said.stderr for part in case.says)
    assert said.stdout == ""
    assert not Path("new").exists()
