"""A folder in which the commands of the documentation run: small data and tiny runs under the names
that the pages use.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import tifffile
from object_files import coco
from PIL import Image
from tiny_options import TINY

SIZE = (32, 40)  # height, width of the noise; in files each value is two by two pixels
CLASSES = ("n01443537", "n02123045")  # of ImageNet, which its variants are matched by
LABELS = ("sky", "road", "car")
FEW = ["--steps", "1", "--batch-size", "4", "--workers", "0", "--warmup-epochs", "0"]
DENSE = [*FEW, "--recipe", "tiny", "--image-size", "32"]


def pixels(number: int, channels: int = 3) -> np.ndarray:
    """Noise on a slope that the number chooses, so that images differ as a whole."""
    rng = np.random.default_rng(number)
    slope = np.linspace(0, rng.integers(20, 120), SIZE[1])[None, :, None]
    noise = rng.integers(0, 30, (*SIZE, channels))
    small = (rng.integers(0, 100, channels) + slope + noise).astype(np.uint8)
    return large(small)


def large(values: np.ndarray) -> np.ndarray:
    """As large as recipes want images, in small files."""
    return values.repeat(2, axis=0).repeat(2, axis=1)


def images(folder: Path, count: int = 4, first: int = 0, suffix: str = ".png") -> Path:
    """Files of colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.fromarray(pixels(number)).save(folder / f"{number:03d}{suffix}")
    return folder


def classes(root: Path, count: int = 6, names: tuple[str, ...] = CLASSES, first: int = 0) -> Path:
    """Class folders."""
    for place, name in enumerate(names):
        images(root / name, count, first + 100 * place)
    return root


def parts(root: Path) -> Path:
    """Class folders below train/ and test/."""
    classes(root / "train")
    classes(root / "test", 4, first=50)
    return root


def bands(folder: Path, count: int, dtype: str = "uint16") -> Path:
    """TIFF files of deep values."""
    folder.mkdir()
    for number in range(6):
        values = pixels(number, count).astype(dtype) * 16
        planes = {"planarconfig": "contig"} if count > 1 else {}
        tifffile.imwrite(folder / f"{number}.tif", values, photometric="minisblack", **planes)
    return folder


def gray(folder: Path) -> Path:
    """Files of one channel."""
    folder.mkdir()
    for number in range(24):
        Image.fromarray(pixels(number, 1)[..., 0]).save(folder / f"{number}.png")
    return folder


def scenes(root: Path, names: tuple[str, str] = ("images", "masks"), labels: int = 3) -> Path:
    """Images, and masks of stripes with a column that has no label."""
    images(root / names[0], 6)
    (root / names[1]).mkdir(parents=True, exist_ok=True)
    for number in range(6):
        mask = (np.indices(SIZE)[0] + number) * labels // (SIZE[0] + 8)
        mask[:, 0] = 255 if labels < 11 else 11
        Image.fromarray(large(mask.astype(np.uint8))).save(root / names[1] / f"{number:03d}.png")
    return root


def tables(here: Path) -> None:
    """labels.csv and weights.csv of photos/, the names of the classes."""
    paths = sorted(p.relative_to(here / "photos") for p in (here / "photos").rglob("*.png"))
    rows = [f"{path},{path.parent.name}" for path in paths]
    (here / "labels.csv").write_text("\n".join(["path,label", *rows]))
    rows = [f"{path},{number % 3}" for number, path in enumerate(paths)]
    (here / "weights.csv").write_text("\n".join(["path,weight", *rows]))
    (here / "wnids.txt").write_text("\n".join(CLASSES))


def objects(here: Path) -> None:
    """COCO files in the places that the pages name."""
    coco(here / "with_boxes")
    coco(here / "coco_mini", part="train2017")
    for part in ("train", "val"):
        coco(here / "dsb" / part)
        made = coco(here / "_", 8, part)
        shutil.copy(made, here / f"{part}.json")
        shutil.copytree(here / "_" / part, here / "of_boxes", dirs_exist_ok=True)
    shutil.rmtree(here / "_")


def data(here: Path) -> None:
    """Everything that is no run."""
    for name in ("photos", "cifar10", "imagenet", "DATA"):
        parts(here / name)
    for name in ("labelled", "LABELLED", "NEW", "OTHER", "PHOTOS", "imagenet-r"):
        classes(here / name, 16)  # a part of it has ten of each
    classes(here / "imagenet-c" / "gaussian_noise" / "1", 2)
    images(here / "dsb96")
    images(here / "more")
    images(here, 1, suffix=".jpg").joinpath("000.jpg").rename(here / "a.jpg")
    shutil.copy(here / "a.jpg", here / "b.jpg")
    bands(here / "tiles", 13)
    bands(here / "TILES", 13)
    bands(here / "scans", 1)
    gray(here / "nuclei")
    scenes(here / "with_masks")
    scenes(here, ("img", "msk"))
    scenes(here / "camvid" / "_", labels=11)
    for part, rest in (("train", "trainannot"), ("test", "testannot")):
        shutil.copytree(here / "camvid/_/images", here / "camvid" / part)
        shutil.copytree(here / "camvid/_/masks", here / "camvid" / rest)
    shutil.rmtree(here / "camvid/_")
    objects(here)
    tables(here)
    with tarfile.open(here / "shards.tar", "w") as archive:
        archive.add(here / "more", "more")


def quiet(*words: object) -> None:
    """A command in this process that must succeed."""
    from openmae.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([str(w) for w in words])
    assert code == 0, said.getvalue()


PRETRAINED = ("a", "b", "c", "x", "cifar10", "earlier", "digits")
"""Copies of runs/photos."""


def runs(here: Path) -> None:
    """Runs that the pages take up, without what other commands made of them; a classifier MODEL."""
    words = TINY.copy()
    words[words.index("--depth") + 1] = "12"  # as many blocks as the pages speak of,
    words[words.index("--image-size") + 1] = "128"  # and the patches of the recipe for a laptop
    few = [*words, "--recipe", "laptop", "--steps", "1", "--save-every", "1"]
    with contextlib.chdir(here):
        quiet("pretrain", "photos/", "--out", "runs/photos", *few)
        for name in PRETRAINED:
            shutil.copytree("runs/photos", f"runs/{name}")
        quiet("pretrain", "tiles/", "--channels", 13, "--out", "runs/tiles", *few)
        quiet("pretrain", "nuclei/", "--channels", 1, "--out", "runs/nuclei", *few)
        quiet("finetune", "runs/photos", "labelled", "--out", "MODEL", *FEW, "--recipe", "small")
        quiet("embed", "runs/photos", "photos/", "-o", "features.npz")
        for name in ("mae_pretrain_vit_base.pth", "mae_visualize_vit_large.pth"):
            quiet("convert", "runs/photos", "--to", "official", "-o", name)


def products(here: Path) -> None:
    """What the pages have other commands make before they use it."""
    run = here / "runs/photos"
    with contextlib.chdir(here):
        quiet("tokenize", "PHOTOS", "--out", "runs/tokenizer", "--codes", 8, "--patch-size", 16,
              "--image-size", 32, "--steps", 1, "--workers", 0)  # fmt: skip
        quiet("segment", "runs/photos", "with_masks", *DENSE, "--head", "linear")
        quiet("detect", "runs/photos", "with_boxes", *DENSE, "--pyramid-dim", 8, "--regions", 8)
        quiet("pack", "photos/", "packed/", "--workers", 0)
    for made in (
        run / "finetune-labelled",
        run / "finetune-LABELLED",
        here / "runs/digits/finetune-digits",
    ):
        shutil.copytree(here / "MODEL", made)
    (run / "segment-with_masks").rename(run / "segment-LABELLED")
    (run / "detect-with_boxes").rename(run / "detect-DATA")


AS = {
    "detect": {"DATA": "with_boxes", "OTHER": "with_boxes", "img": "of_boxes"},
    "segment": {"LABELLED": "with_masks", "OTHER": "with_masks"},
}
"""Page -> its names for other data than elsewhere."""


def copied(base: Path, here: Path, page: str, link: bool = False) -> Path:
    """The sandbox of a page; `link` where nothing will be written into its files."""
    shutil.copytree(base, here, copy_function=os.link if link else shutil.copy2)
    for name, other in AS.get(page, {}).items():
        shutil.rmtree(here / name)
        shutil.copytree(here / other, here / name)
    return here
