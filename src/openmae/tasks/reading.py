"""What the tasks that use a frozen encoder share: load it, read images with it, and the honest
baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from openmae.config.evaluate import ReaderConfig, ScoreConfig
from openmae.data.labels import open_labelled_split
from openmae.data.loader import EvalBatches, ViewBatches, loader
from openmae.data.sources import Source, open_split, require_classes
from openmae.data.transforms import EvalTransform, ProbeTransform
from openmae.engine.device import auto_workers, resolve_device, resolve_precision
from openmae.engine.distributed import World, joined
from openmae.engine.features import Features, extract
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results
from openmae.engine.spread import in_order, own_batches
from openmae.errors import DataError, UsageError
from openmae.methods.mae import MAE
from openmae.models.encoder import Encoder
from openmae.tasks.arguments import require_order, require_two
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.resultfolder import nothing_left, result_folder
from openmae.tasks.scoring import interval, majority
from openmae.weights import Loaded, load_any, random_encoder

RAW_SIDE = 16  # pixels; larger images are made this small for the raw-pixel baseline


@dataclass
class Reader:
    """A frozen encoder on its device, and how it reads images."""

    loaded: Loaded
    config: ReaderConfig
    device: torch.device
    world: World = field(default_factory=World)

    def features(
        self,
        source: Source,
        encoder: nn.Module | None = None,
        crop_pct: float = 1.0,
        view: tuple[int, int] | None = None,
    ) -> Features:
        """Vectors of a source by the encoder, or by another network; names what is unreadable.

        With `view` (seed, number) of random crops (the paper's probe), else of the central
        `crop_pct`.
        """
        size, pool = self.loaded.encoder.image_size, self.config.pool
        if isinstance(encoder, RawPixels):
            size, pool = encoder.size, "mean"
        rows = self.config.batch_size
        batches = EvalBatches(source, EvalTransform(size, crop_pct), rows)
        if view is not None:
            batches = ViewBatches(source, ProbeTransform(size, view[0]), rows, view[1])
        workers = (
            auto_workers(self.device.type) if self.config.workers is None else self.config.workers
        )
        precision = resolve_precision("auto", self.device)
        own = own_batches(self.world, len(batches))
        stream = loader(batches, own, workers, pin=self.device.type == "cuda")
        gather = in_order(self.world, len(batches))
        network: nn.Module = encoder or self.loaded.encoder
        if isinstance(network, Encoder) and (self.config.layer or not self.config.norm):
            network = Tapped(network, self.config.layer, self.config.norm)
        network = network.to(self.device)
        found = extract(network, stream, pool, self.device, precision, gather)
        first = encoder is None and (view is None or view[1] == 0)
        for path, reason in found.bad[:3] if first else ():
            more = f" ({len(found.bad)} in all)" if len(found.bad) > 3 else ""
            warn(f"{path}: {reason}. Left out{more}")
        return found


class Tapped(nn.Module):
    """An encoder that is read after one of its blocks, with or without its final norm."""

    def __init__(self, encoder: Encoder, layer: int | None, norm: bool) -> None:
        super().__init__()
        self.encoder, self.layer, self.norm = encoder, layer, norm
        self.num_prefix_tokens = encoder.num_prefix_tokens

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.tokens(images, self.layer, self.norm)


class RawPixels(nn.Module):
    """The baseline without a network: pixels, at the model's size but at most 16 px."""

    num_prefix_tokens = 0

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        shrink = min(1.0, RAW_SIDE / max(size))
        self.size = (max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)[:, None]
        return flat if images.is_floating_point() else flat.float() / 255


Read = Callable[[Reader, Source, nn.Module | None], Any]
"""Features (or Views) of a source by a network; None is the reader's own."""

Evaluate = Callable[[Any, Features], dict[str, float]]
"""Training part as `Read` gives it and test part -> "accuracy" and further numbers."""


def open_reader(config: ReaderConfig, world: World) -> Reader:
    """Load the model that a task names, and say what it is."""
    require_order(config.model, config.data)
    device = resolve_device(config.device)
    loaded = load_any(config.model)
    for notice in loaded.notices:
        warn(notice)
    height, width = loaded.encoder.image_size
    depth = len(loaded.encoder.vit.blocks)
    if config.layer is not None and config.layer > depth:
        raise UsageError(f"--layer {config.layer}: this encoder has blocks 1 to {depth}")
    if config.pool == "cls" and loaded.encoder.vit.cls_token is None:
        raise DataError("this encoder has no class token. Use --pool mean")
    say("Model", f"{loaded.what}; {loaded.encoder.create['model_name']}, {height}x{width} px")
    return Reader(loaded, config, device, world)


def central(reader: Reader, source: Source, encoder: nn.Module | None) -> Features:
    """The usual `Read`: one vector an image, of its largest central part."""
    return reader.features(source, encoder)


def score(
    config: ScoreConfig,
    task: str,
    evaluate: Evaluate,
    saying: str,
    dry_run: bool = False,
    reads: tuple[Read, Read] = (central, central),
    about: Mapping[str, Any] | None = None,
) -> Results:
    """Score frozen features on labelled images, beside majority class, random weights and raw
    pixels.

    `reads` make the features of the training and of the test part; `about` joins results.json.
    """
    with joined(config.device) as world:
        reader = open_reader(config, world)
        return _score(reader, task, evaluate, saying, dry_run, reads, about or {})


def _score(
    reader: Reader,
    task: str,
    evaluate: Evaluate,
    saying: str,
    dry_run: bool,
    reads: tuple[Read, Read],
    about: Mapping[str, Any],
) -> Results:
    config = reader.config
    assert isinstance(config, ScoreConfig)
    encoder = reader.loaded.encoder
    train, test = _labelled(config, task, encoder)
    say(
        "Data",
        f"train {len(train):,}, test {len(test):,}, {len(train.classes)} classes"
        f" ({config.labels or config.data})",
    )
    say("Score", f"{saying}; features: {pooling(config, encoder)}, {encoder.vit.embed_dim} numbers")
    if task == "knn" and config.pool == "cls" and isinstance(reader.loaded.model, MAE):
        warn("the class token of an MAE has no loss of its own: weak for k-NN. Or --pool mean")
    if dry_run:
        return dry()
    folder = result_folder(config.out, reader.loaded, task, config.data, reader.world.main)
    with nothing_left(folder):
        results = _compare(reader, task, evaluate, (train, test), reads)
    _tell(task, results)
    if folder is not None:
        what = {"model": reader.loaded.what, "data": config.data, "labels": config.labels}
        how = {"how": saying, "features": pooling(config, encoder), **vector_of(config, encoder)}
        folder.write_json("results.json", {**results, **what, **how, **about})
        say("Out", f"{folder.path / 'results.json'}")
    return Results(results, folder.path if folder else None)


def _labelled(config: ScoreConfig, task: str, encoder: Encoder) -> tuple[Source, Source]:
    """Training and test part, by class folders or by a table."""
    decoding = decoding_of(encoder)
    if config.labels is not None:
        train, test = open_labelled_split(
            config.data, config.labels, decoding, config.test_fraction
        )
    else:
        train, test = open_split(config.data, decoding, config.test_fraction, task)
        require_classes(train, task)
    several = [name for name in train.classes if ";" in name or "|" in name]
    if config.labels is not None and several:
        warn(f"labels such as {several[0]!r} count as one class each (several: finetune only)")
    require_fit(train, encoder)
    require_two(train, task)
    return train, test


def _compare(
    reader: Reader,
    task: str,
    evaluate: Evaluate,
    parts: tuple[Source, Source],
    reads: tuple[Read, Read],
) -> dict[str, Any]:
    """The scores of the model and of its baselines, n and the interval."""
    config = reader.config
    assert isinstance(config, ScoreConfig)
    train, test = (read(reader, part, None) for read, part in zip(reads, parts, strict=True))
    if len(set(train.labels.tolist())) < 2:
        raise DataError("the images that can be read are of one class only")
    results: dict[str, Any] = {f"{task}_{k}": v for k, v in evaluate(train, test).items()}
    n, n_train = len(test.labels), len(train.labels)
    low, high = interval(results[f"{task}_accuracy"], n)
    results |= {"majority_accuracy": majority(train, test)}
    del train, test  # they may be large, and so may those of the baselines
    if config.baselines:
        encoder = reader.loaded.encoder
        for name, other in (
            ("random_weights", random_encoder(encoder.create, config.seed, encoder)),
            ("raw_pixels", RawPixels(encoder.image_size)),
        ):
            both = [read(reader, part, other) for read, part in zip(reads, parts, strict=True)]
            results[f"{name}_{task}_accuracy"] = evaluate(*both)["accuracy"]
    return results | {
        "n": n,
        "n_train": n_train,
        "seed": config.seed,
        f"{task}_low_95": low,
        f"{task}_high_95": high,
    }


def dry() -> Results:
    """The answer of a task that was only to check everything."""
    say("Dry run", "everything fits; nothing was written")
    return Results({"dry_run": True})


def _tell(task: str, results: dict[str, Any]) -> None:
    low, high = results[f"{task}_low_95"], results[f"{task}_high_95"]
    words = [
        f"{results[f'{task}_accuracy']:.1%} [{low:.1%}, {high:.1%}] (95 %, n={results['n']:,}, seed"
        f" {results['seed']})"
    ]
    for name, label in (
        (f"random_weights_{task}_accuracy", "random weights"),
        (f"raw_pixels_{task}_accuracy", "raw pixels"),
        ("majority_accuracy", "majority class"),
    ):
        if name in results:
            words.append(f"{label} {results[name]:.1%}")
    say("Result", "   ".join(words))
    beside = [
        f"{label} {results[f'{task}_{name}']:.1%}"
        for name, label in (("accuracy_top5", "top-5"), ("train_accuracy", "training images"))
        if f"{task}_{name}" in results
    ]
    if beside:
        say("", "   ".join(beside))
    for name, value in results.items():
        if name.startswith(f"{task}_accuracy_k"):
            say("", f"k {name.removeprefix(f'{task}_accuracy_k')}: {value:.1%}")


def pooling(config: ReaderConfig, encoder: Encoder) -> str:
    """Which vector of an image is read, in words."""
    what = "mean of patch tokens" if config.pool == "mean" else "class token"
    where = f" after block {config.layer}" if config.layer else ""
    norm = "after the final norm" if config.norm else "without the final norm"
    if isinstance(encoder.vit.norm, nn.Identity):  # of a classifier by mean pool
        norm = "no final norm in this model"
    return f"{what}{where}, {norm}"


def vector_of(config: ReaderConfig, encoder: Encoder) -> dict[str, Any]:
    """The same for files: pool, layer (the number of a block, from 1) and norm."""
    layer = config.layer or len(encoder.vit.blocks)
    has_norm = config.norm and not isinstance(encoder.vit.norm, nn.Identity)
    return {"pool": config.pool, "layer": layer, "norm": "final" if has_norm else "none"}
