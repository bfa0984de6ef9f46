"""`openmae probe`: a linear layer on frozen features, fitted to its optimum or trained as the paper
does.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from openmae.config.base import Options
from openmae.config.evaluate import ProbeConfig
from openmae.config.finetune import crop_share
from openmae.data.sources import Source
from openmae.engine.device import resolve_device
from openmae.engine.features import Features, Views
from openmae.engine.log import say
from openmae.engine.runfolder import Results, gigabytes
from openmae.tasks.paperprobe import PaperProbe, Protocol, batch_of, paper_probe
from openmae.tasks.reading import RawPixels, Reader, score
from openmae.tasks.scoring import linear_probe


def run(config: ProbeConfig, options: Options) -> Results:
    """Linear-probe accuracy, with its interval and baselines."""
    if config.protocol == "paper":
        return _paper(config, options)

    def evaluate(train: Features, test: Features) -> dict[str, float]:
        found = linear_probe(train, test, config.l2)
        return {"accuracy": found.accuracy, "train_accuracy": found.train_accuracy}

    tried = (
        "given" if config.l2 and len(config.l2) == 1 else "chosen on a tenth of the training images"
    )
    saying = f"BatchNorm without affine + linear layer, L2 {tried}"
    return score(config, "probe", evaluate, saying, options.dry_run, about={"protocol": "fast"})


def _paper(config: ProbeConfig, options: Options) -> Results:
    if "pool" not in config.model_fields_set:
        config = config.model_copy(update={"pool": "cls"})  # as the paper's
    told = Protocol(config.epochs, config.warmup_epochs, config.lr, config.probe_batch, config.seed)
    device = resolve_device(config.device)
    own: list[PaperProbe] = []

    def evaluate(train: Views, test: Features) -> dict[str, float]:
        found = paper_probe(train, test, told, device)
        if not own:  # the model comes first, then its baselines
            own.append(found)
            _tell(config, train, found)
        values = {"accuracy": found.accuracy, "train_accuracy": found.train_accuracy}
        many = {"accuracy_top5": found.top5} if train.labels.max() > 4 else {}
        tried = {f"aside_accuracy_lr{rate:g}": score for rate, score in found.tried.items()}
        batch = batch_of(len(train), told.batch)
        return values | many | {"lr": found.lr} | tried | {"batch": batch}

    rates = " ".join(f"{rate:g}" for rate in config.lr)
    saying = (
        f"BatchNorm without affine + linear layer, LARS, {config.epochs} epochs, base lr {rates},"
        f" {_crops(config)}"
    )
    about: dict[str, Any] = {"protocol": "paper"}
    about |= {name: getattr(config, name) for name in ("epochs", "warmup_epochs", "crops")}
    reads = _views(config), _tested
    return score(config, "probe", evaluate, saying, options.dry_run, reads, about)


def _crops(config: ProbeConfig) -> str:
    if config.crops == config.epochs:
        return "a new random crop of every image in every epoch, as in the paper"
    plural = "s" if config.crops > 1 else ""
    return (
        f"{config.crops} random crop{plural} of every image in turn (an approximation: the paper"
        f" has one for each of the {config.epochs} epochs)"
    )


def _tell(config: ProbeConfig, train: Views, found: PaperProbe) -> None:
    batch = batch_of(len(train), config.probe_batch)
    rate = f"lr {found.lr:g} x {batch}/256 = {found.lr * batch / 256:.4g}"
    why = "" if batch == config.probe_batch else f" (an eighth of the {len(train):,} images)"
    say("", f"batch {batch}{why}, {rate}, warm-up {config.warmup_epochs} epochs, then a cosine")
    if found.tried:
        scores = ", ".join(f"{rate:g}: {score:.1%}" for rate, score in found.tried.items())
        say("", f"base lr chosen on a tenth of the training images, set aside: {scores}")
    elif len(config.lr) > 1:
        say("", f"too few images to set a tenth aside: the middle base lr, {found.lr:g}")


def _views(config: ProbeConfig) -> Any:
    """How the paper's probe reads what it trains on: random crops."""

    def read(reader: Reader, source: Source, encoder: nn.Module | None) -> Views:
        views = Views(
            lambda number: reader.features(source, encoder, view=(config.seed, number)),
            config.crops,
        )
        if views.bytes > 4e9 and encoder is None:
            say(
                "",
                f"features of {config.crops} crops take {gigabytes(views.bytes)}: 4 GB of them are"
                " kept, the others made again when they are read",
            )
        return views

    return read


def _tested(reader: Reader, source: Source, encoder: nn.Module | None) -> Features:
    """The central part that the paper tests; raw pixels are all of it."""
    pixels = isinstance(encoder, RawPixels)
    share = 1.0 if pixels else crop_share(None, reader.loaded.encoder.image_size)
    return reader.features(source, encoder, share)
