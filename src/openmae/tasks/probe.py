"""`openmae probe`: a linear layer on frozen features, fitted to its optimum or trained as the paper
does.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from openmae.config.base import Options
from openmae.config.evaluate import ProbeConfig
from openmae.config.finetune import crop_share
from openmae.data.sources import Source
from openmae.engine.features import Features
from openmae.engine.log import say
from openmae.engine.runfolder import Results
from openmae.tasks.paperprobe import Protocol, batch_of, paper_probe
from openmae.tasks.reading import RawPixels, Reader, Reads, score
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
    return score(config, "probe", evaluate, saying, options.dry_run)


def _paper(config: ProbeConfig, options: Options) -> Results:
    if "pool" not in config.model_fields_set:
        config = config.model_copy(update={"pool": "cls"})  # as the paper's
    told = Protocol(
        config.epochs,
        config.warmup_epochs,
        config.lr,
        config.probe_batch,
        config.crops,
        config.seed,
    )

    def evaluate(train: Features, test: Features) -> dict[str, float]:
        found = paper_probe(train, test, told)
        say(
            "",
            f"batch {batch_of(len(train.labels) // told.views, told.batch)}, base lr {found.lr:g}",
        )
        values = {"accuracy": found.accuracy, "train_accuracy": found.train_accuracy}
        many = {"accuracy_top5": found.top5} if train.labels.max() > 4 else {}
        return values | many | {"lr": found.lr}

    rates = " ".join(f"{rate:g}" for rate in config.lr)
    exact = "" if config.crops >= config.epochs else f" (the paper has {config.epochs})"
    saying = (
        f"BatchNorm without affine + linear layer, LARS, {config.epochs} epochs, base lr {rates},"
        f" {config.crops} random views{exact}"
    )
    return score(config, "probe", evaluate, saying, options.dry_run, _views(config))


def _views(config: ProbeConfig) -> Reads:
    """How the paper's probe reads: random crops to train on, the central ones to test."""

    def read(reader: Reader, source: Source, encoder: nn.Module | None, training: bool) -> Features:
        share = crop_share(None, reader.loaded.encoder.image_size)
        if isinstance(encoder, RawPixels):
            share = 1.0
        if not training:
            return reader.features(source, encoder, share)
        views = [reader.features(source, encoder, view=v) for v in range(config.crops)]
        vectors = np.concatenate([v.vectors for v in views])
        if vectors.nbytes > 4e9:
            say("", f"the features of {config.crops} views take {vectors.nbytes / 1e9:.1f} GB")
        labels = np.concatenate([v.labels for v in views])
        return Features(vectors, labels, [p for v in views for p in v.paths], views[0].bad)

    return read
