"""Settings of the commands that use a pretrained encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from openmae.config.base import MOST_SEED, Settings, setting

MODEL, SCORE, RUN = "Model", "Evaluation", "Run"
Pool = Literal["mean", "cls"]


class ReaderConfig(Settings):
    """What every task that reads images with a frozen encoder shares."""

    model: str = setting(
        ..., "a run folder, an encoder file or a timm name", MODEL, "free", positional=True
    )
    data: str = setting(
        ..., "a folder of images, or the word digits", SCORE, "free", positional=True
    )
    pool: Pool = setting(
        "mean", "vector of an image: mean of patch tokens, or class token", SCORE, "free"
    )
    batch_size: int = setting(256, "images at a time", RUN, "free", gt=0)
    workers: int | None = setting(
        None, "loader processes; chosen by device", RUN, "free", ge=0, le=256
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps", RUN, "free")


class ScoreConfig(ReaderConfig):
    """What k-NN and probe share. DATA has one folder a class, optionally below train/ and test/ (or
    val/).
    """

    out: str | None = setting(None, "folder of the result; inside the run by default", RUN, "free")
    test_fraction: float = setting(
        0.2, "tested share, by hash of the path, without test folder", SCORE, "free", gt=0, lt=1
    )
    baselines: bool = setting(True, "also random weights and raw pixels", SCORE, "free")
    seed: int = setting(0, "of the random weights", RUN, "free", ge=0, le=MOST_SEED)


class KnnConfig(ScoreConfig):
    """k nearest neighbours by cosine, votes weighted by exp(similarity / temperature)."""

    k: int = setting(20, "neighbours", SCORE, "free", gt=0)
    temperature: float = setting(0.07, "of the votes", SCORE, "free", gt=0)


class ProbeConfig(ScoreConfig):
    """BatchNorm without affine and a linear layer, on frozen features."""

    l2: tuple[float, ...] | None = setting(
        None,
        "penalty on the weights; several are tried on a tenth of the training images",
        SCORE,
        "free",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.l2 is not None and (not self.l2 or min(self.l2) <= 0):
            yield "l2", ": each must be greater than 0"


class EmbedConfig(ReaderConfig):
    """One vector for each image, never masked: mean of patch tokens after the final norm."""

    out: str = setting(..., "output: .parquet, .npz or .csv", RUN, "free", short="-o")

    def problems(self) -> Iterator[tuple[str, str]]:
        if Path(self.out).suffix not in (".parquet", ".npz", ".csv"):
            yield "out", ": the name must end in .parquet, .npz or .csv"


class ReconstructConfig(Settings):
    """Original, masked, output and pasted, with the model's error beside a mean fill."""

    model: str = setting(..., "a run folder", MODEL, "free", positional=True)
    images: tuple[str, ...] = setting(
        ..., "image files, a folder, or the word digits", SCORE, "free", positional=True
    )
    out: str = setting("reconstruction.png", "picture to write", RUN, "free", short="-o")
    mask_ratio: float | None = setting(
        None, "share to hide; the run's by default", SCORE, "free", ge=0.05, le=0.95
    )
    cheat_scale: bool = setting(
        False, "un-normalise with the hidden truth; the picture says so", SCORE, "free"
    )
    max_images: int = setting(8, "rows of the picture", SCORE, "free", gt=0)
    seed: int = setting(0, "of the masks", RUN, "free", ge=0, le=MOST_SEED)
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps", RUN, "free")

    def problems(self) -> Iterator[tuple[str, str]]:
        if Path(self.out).suffix not in (".png", ".jpg", ".webp"):
            yield "out", ": the name must end in .png, .jpg or .webp"


class ModelsConfig(Settings):
    """Names of timm's plain vision transformers."""

    filter: str = setting("", "only names that contain this", MODEL, "free", positional=True)
