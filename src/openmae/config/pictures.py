"""Settings of the commands that show what a model sees: `reconstruct` and `attention`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from openmae.config.base import MOST_SEED, Settings, setting
from openmae.config.fields import any_device

MODEL, LOOK, RUN = "Model", "Evaluation", "Run"
PICTURES = (".png", ".jpg", ".webp")


class ReconstructConfig(Settings):
    """Original, masked, output and pasted, with the model's error beside a mean fill."""

    model: str = setting(..., "a run folder", MODEL, "free", positional=True)
    images: tuple[str, ...] = setting(
        ..., "image files, a folder, or the word digits", LOOK, "free", positional=True
    )
    out: str = setting("reconstruction.png", "picture to write", RUN, "free", short="-o")
    mask_ratio: float | None = setting(
        None, "share to hide; the run's by default", LOOK, "free", ge=0.05, le=0.95
    )
    mask: Literal["random", "block", "grid"] | None = setting(
        None, "how it is chosen; the run's own by default", LOOK, "free"
    )
    hide: str | None = setting(
        None, "patches to hide instead, row by row from 0: 0-3,17,20-25", LOOK, "free"
    )
    step: int | None = setting(
        None, "of a checkpoint that is still there; the newest by default", MODEL, "free", ge=0
    )
    grid: bool = setting(
        False, "one sheet: many images, or a column for each value of --across", LOOK, "free"
    )
    video: str | None = setting(
        None, "also an animation over --across (steps by default): .webp or .gif", RUN, "free"
    )
    across: Literal["steps", "ratios", "seeds"] | None = setting(
        None, "what changes in --grid and --video", LOOK, "free"
    )
    values: tuple[float, ...] = setting(
        (), "of --across, such as 0.5 0.75 0.9; sensible ones by default", LOOK, "free"
    )
    cheat_scale: bool = setting(
        False, "un-normalise with the hidden truth; the picture says so", LOOK, "free"
    )
    bands: tuple[int, ...] = setting(
        (), "channels of the file to show, from 1: one, or red green blue", LOOK, "free"
    )
    max_images: int = setting(8, "images of the picture", LOOK, "free", gt=0)
    seed: int = setting(0, "of the masks", RUN, "free", ge=0, le=MOST_SEED)
    device: str = any_device()

    def problems(self) -> Iterator[tuple[str, str]]:
        if Path(self.out).suffix not in PICTURES:
            yield "out", ": the name must end in .png, .jpg or .webp"
        if self.hide is not None:
            if self.mask is not None or self.mask_ratio is not None:
                yield "hide", " names the patches: drop --mask and --mask-ratio"
            try:
                patches_of(self.hide)
            except ValueError:
                yield "hide", ": give numbers of patches, such as 0-3,17,20-25"
        yield from self._across_problems()

    def _across_problems(self) -> Iterator[tuple[str, str]]:
        if self.video is not None and Path(self.video).suffix not in (".webp", ".gif"):
            more = " (.mp4 needs a video encoder, which this does without)"
            yield "video", f": the name must end in .webp or .gif{more}"
        across = self.across or ("steps" if self.video is not None else None)
        if across is not None and not self.grid and self.video is None:
            yield "across", " says what changes in --grid or --video. Add one, or drop this"
        taken = {"steps": ("step",), "ratios": ("mask_ratio", "hide"), "seeds": ("hide",)}
        for name in taken.get(across or "", ()):
            if getattr(self, name) is not None:
                yield name, f" is one value, and --across {across} takes several. Drop one"
        if not self.values:
            return
        if across is None:
            yield "values", " are those of --across. Add that, or drop this"
        elif across == "ratios" and not all(0.05 <= v <= 0.95 for v in self.values):
            yield "values", ": a mask ratio is from 0.05 to 0.95"
        elif across in ("steps", "seeds") and not all(
            v == int(v) and 0 <= v <= MOST_SEED for v in self.values
        ):
            yield "values", f": {across} are whole numbers from 0"
        if len(set(self.values)) < len(self.values):
            yield "values", ": the same twice"


class AttentionConfig(Settings):
    """Where one patch, or the class token, looks in a block of the encoder: each head and their
    mean, beside the image. Nothing is hidden.
    """

    model: str = setting(
        ..., "a run folder, an encoder file or a timm name", MODEL, "free", positional=True
    )
    images: tuple[str, ...] = setting(
        ..., "image files, a folder, or the word digits", LOOK, "free", positional=True
    )
    out: str = setting("attention.png", "picture to write", RUN, "free", short="-o")
    patch: str | None = setting(
        None, "who looks: row,column of a patch from 0, or cls; the middle one", LOOK, "free"
    )
    layer: int | None = setting(None, "block, from 1; the last by default", LOOK, "free", ge=1)
    bands: tuple[int, ...] = setting(
        (), "channels of the file to show, from 1: one, or red green blue", LOOK, "free"
    )
    max_images: int = setting(4, "rows of the picture", LOOK, "free", gt=0)
    device: str = any_device()

    def problems(self) -> Iterator[tuple[str, str]]:
        if Path(self.out).suffix not in PICTURES:
            yield "out", ": the name must end in .png, .jpg or .webp"
        if self.patch not in (None, "cls") and not re.fullmatch(
            r"[0-9]{1,5},[0-9]{1,5}", self.patch or ""
        ):
            yield "patch", ": give row,column such as 3,7, or cls"


def patches_of(words: str) -> tuple[int, ...]:
    """0-3,7 -> (0, 1, 2, 3, 7).

    Raises:
        ValueError: it is no such list, or one of more patches than images have.
    """
    found: set[int] = set()
    for part in words.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = [first, last if dash else first]
        if not all(n.isascii() and n.isdigit() and len(n) < 7 for n in numbers):
            raise ValueError(words)
        found |= set(range(int(first), int(numbers[1]) + 1))
        if int(numbers[1]) < int(first):
            raise ValueError(words)
    return tuple(sorted(found))
