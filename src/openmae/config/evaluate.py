"""Settings of the commands that use a pretrained encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from openmae.config.base import MOST_SEED, Settings, setting
from openmae.config.fields import any_device, loaders, ranks

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
        "mean",
        "vector of an image: mean of patch tokens, or class token (weak in MAE)",
        SCORE,
        "free",
    )
    layer: int | None = setting(
        None, "block whose tokens are read, from 1; the last by default", SCORE, "free", ge=1
    )
    norm: bool = setting(True, "the encoder's final norm on the tokens", SCORE, "free")
    batch_size: int = setting(256, "images at a time", RUN, "free", gt=0)
    workers: int | None = loaders()
    device: str = any_device()
    gpus: int | None = ranks()


class ScoreConfig(ReaderConfig):
    """What k-NN and probe share. DATA has one folder a class, optionally below train/ and test/ (or
    val/).
    """

    out: str | None = setting(None, "folder of the result; inside the run by default", RUN, "free")
    labels: str | None = setting(
        None, "CSV with path, label and perhaps split, instead of class folders", SCORE, "free"
    )
    test_fraction: float = setting(
        0.2, "tested share, by hash of the path, without test folder", SCORE, "free", gt=0, lt=1
    )
    baselines: bool = setting(True, "also random weights and raw pixels", SCORE, "free")
    seed: int = setting(0, "of random weights and crops", RUN, "free", ge=0, le=MOST_SEED)


class KnnConfig(ScoreConfig):
    """k nearest neighbours by cosine, votes weighted by exp(similarity / temperature)."""

    k: tuple[int, ...] = setting((20,), "neighbours; the first of several counts", SCORE, "free")
    temperature: float = setting(0.07, "of the votes", SCORE, "free", gt=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(set(self.k)) < len(self.k):
            yield "k", ": the same count twice"
        if not self.k or min(self.k) < 1:
            yield "k", ": must be at least 1"


class ProbeConfig(ScoreConfig):
    """BatchNorm without affine and a linear layer, on frozen features: fitted to the
    optimum (fast), or trained as the paper does (Table 10).
    """

    protocol: Literal["fast", "paper"] = setting(
        "fast", "paper: LARS, 90 epochs, random crops, class token", SCORE, "free"
    )
    epochs: int = setting(90, "of the paper's protocol", SCORE, "free", gt=0)
    warmup_epochs: int = setting(10, "of the paper's protocol", SCORE, "free", ge=0)
    lr: tuple[float, ...] = setting(
        (0.1,), "paper: base rate per 256; of several the best on a tenth aside", SCORE, "free"
    )
    probe_batch: int = setting(
        16384, "paper: batch; at most an eighth of the images", SCORE, "free", gt=0
    )
    crops: int = setting(
        1, "paper: random crops of an image, read in turn; 90 is the paper's", SCORE, "free", gt=0
    )
    l2: tuple[float, ...] | None = setting(
        None,
        "penalty on the weights; several are tried on a tenth of the training images",
        SCORE,
        "free",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        fields = type(self).model_fields
        for name in ("epochs", "warmup_epochs", "lr", "probe_batch", "crops"):
            if self.protocol == "fast" and getattr(self, name) != fields[name].default:
                yield name, " is a setting of --protocol paper. Add that, or drop this"
        if self.protocol == "paper" and self.l2 is not None:
            yield "l2", " is a setting of --protocol fast. The paper's probe has none: drop it"
        if not self.lr or min(self.lr) <= 0:
            yield "lr", ": must be greater than 0"
        if len(set(self.lr)) < len(self.lr):
            yield "lr", ": the same rate twice"
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            yield "warmup_epochs", f": must be less than the {self.epochs} epochs"
        if self.crops > self.epochs:
            yield "crops", f": an epoch reads one, so at most {self.epochs}"
        if self.l2 is not None and (not self.l2 or min(self.l2) <= 0):
            yield "l2", ": each must be greater than 0"


class EmbedConfig(ReaderConfig):
    """One vector for each image, never masked: mean of patch tokens after the final norm."""

    out: str = setting(..., "output: .parquet, .npz or .csv", RUN, "free", short="-o")
    duplicates: str | None = setting(
        None, "CSV of pairs of images that are almost the same", SCORE, "free"
    )
    duplicate_threshold: float = setting(
        0.98, "cosine similarity of such a pair, of standardised vectors", SCORE, "free", gt=0, le=1
    )
    neighbours: str | None = setting(None, "CSV of the nearest others of each image", SCORE, "free")
    neighbour_count: int = setting(10, "how many", SCORE, "free", gt=0)
    map: str | None = setting(
        None, "every image as a point: a picture .png, or a page .html to explore", SCORE, "free"
    )
    map_method: Literal["tsne", "pca"] = setting("tsne", "how points are laid out", SCORE, "free")

    def problems(self) -> Iterator[tuple[str, str]]:
        if Path(self.out).suffix not in (".parquet", ".npz", ".csv"):
            yield "out", ": the name must end in .parquet, .npz or .csv"
        ends = {"duplicates": (".csv",), "neighbours": (".csv",), "map": (".png", ".html")}
        for name, suffixes in ends.items():
            path = getattr(self, name)
            if path is not None and Path(path).suffix not in suffixes:
                yield name, f": the name must end in {' or '.join(suffixes)}"


class ModelsConfig(Settings):
    """Names of timm's plain vision transformers."""

    filter: str = setting("", "only names that contain this", MODEL, "free", positional=True)
