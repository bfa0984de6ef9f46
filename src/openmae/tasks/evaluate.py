"""`openmae evaluate`: a classifier on labelled images, and on the robustness sets of ImageNet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from openmae.config.base import Options
from openmae.config.finetune import EvaluateConfig, PredictConfig, crop_share
from openmae.data.labels import labelled
from openmae.data.sources import Source, open_source, open_split, require_classes
from openmae.engine.device import auto_workers, resolve_precision
from openmae.engine.distributed import World, joined
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results, RunFolder
from openmae.errors import DataError, UsageError
from openmae.methods.classify import Classifier
from openmae.tasks.classification import (
    Predictions,
    metrics,
    predict,
    tell,
    warn_bad,
    write_report,
    write_rows,
)
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.fromencoder import open_trained
from openmae.tasks.reading import dry
from openmae.tasks.resultfolder import nothing_left, result_folder
from openmae.tasks.robustness import corruption_table, find_corruptions, summary
from openmae.weights import Loaded


def run(config: EvaluateConfig, options: Options) -> Results:
    """Score a classifier; the result holds accuracy, n and interval, or the corruption errors."""
    with joined(config.device) as world:
        return _evaluate(config, options, world)


def _evaluate(config: EvaluateConfig, options: Options, world: World) -> Results:
    model, loaded = open_classifier(config)
    root = Path(config.data).expanduser()
    looked = config.layout != "folder" and config.labels is None
    corrupted = find_corruptions(root) if looked else {}
    if config.layout == "imagenet-c" and not corrupted:
        raise DataError(f"{config.data} has no CORRUPTION/SEVERITY(1-5)/CLASS folders below it")
    if corrupted:
        out = (config.out, loaded, "evaluate", config.data, world.main)
        folder = None if options.dry_run else result_folder(*out)
        with nothing_left(folder):
            return _corruptions(config, options, model, loaded, corrupted, folder, world)
    source = _open(config, model)
    require_fit(source, model.encoder)
    names = _names(config, model)
    columns, labels = match(source, names)
    say("Data", f"{len(source):,} images of {len(columns)} classes ({config.data})")
    if len(columns) < len(names):
        say("", f"only these {len(columns)} of the model's {len(names)} classes are chosen among")
    if options.dry_run:
        return dry()
    folder = result_folder(config.out, loaded, "evaluate", config.data, world.main)
    with nothing_left(folder):
        found = _restricted(_predict(config, model, source, world), source, columns, labels)
    warn_bad(found)
    shown = [names[c] for c in columns]
    values = metrics(found, None, model.multi_label)
    tell(values, found, shown, None, model.multi_label)
    if folder is not None and folder.writes:
        write_report(folder.path, found, shown, model.multi_label)
        about = {"model": loaded.what, "data": config.data}
        folder.write_json("results.json", {**values, **about})
        picture = "" if model.multi_label else ", pictures/confusion.png"
        say("Out", f"{folder.path / 'results.json'}, per_class.csv{picture}")
    return Results(values, folder.path if folder else None)


def open_classifier(config: EvaluateConfig | PredictConfig) -> tuple[Classifier, Loaded]:
    """The classifier that a task names.

    Raises:
        StorageError: it is an encoder or a masked autoencoder.
    """
    refusal = f"has no classes yet. First: openmae finetune {config.model} LABELLED"
    model, loaded = open_trained(config, Classifier, refusal)
    height, width = model.encoder.image_size
    name = model.encoder.create["model_name"]
    say("Model", f"{loaded.what}; {name}, {height}x{width} px, {len(model.classes)} classes")
    return model, loaded


def _open(config: EvaluateConfig, model: Classifier) -> Source:
    reads = decoding_of(model.encoder)
    if config.labels is not None:
        return labelled(config.data, config.labels, reads, model.multi_label)
    if model.multi_label:
        raise UsageError(f"{config.model} gives several labels an image: add --labels FILE.csv")
    root = Path(config.data).expanduser()
    parts = [n for n in ("train", "test", "val") if (root / n).is_dir()]
    if "train" in parts and len(parts) > 1:
        source = open_split(config.data, reads)[1]
    else:
        source = open_source(config.data, reads, split="test")
    require_classes(source, "evaluate")
    return source


def _names(config: EvaluateConfig, model: Classifier) -> list[str]:
    """Folder names of the model's classes, in the order of its outputs."""
    if config.class_names is None:
        return model.classes
    path = Path(config.class_names).expanduser()
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    names = [line for line in lines if line]
    if len(names) != len(model.classes):
        raise DataError(f"{path} has {len(names)} names, the model {len(model.classes)} classes")
    return names


def match(source: Source, names: list[str]) -> tuple[list[int], np.ndarray[Any, Any]]:
    """The model's outputs that occur in a source, and its labels as positions among these.

    Classes are matched by name. A model whose classes are plain numbers, or LABEL_0, LABEL_1 ... (a
    file of another project), takes as many folders in sorted order.

    Raises:
        DataError: a class that the model does not know.
    """
    own = list(source.classes)
    unnamed = [[f"{start}{i}" for i in range(len(names))] for start in ("", "LABEL_")]
    if set(own).isdisjoint(names) and names in unnamed:
        if len(own) != len(names):
            raise DataError(
                f"{source.name} has {len(own)} classes, the model {len(names)} without names. Give"
                " --class-names FILE, one folder name a line"
            )
        warn("the model's classes have no names: folders are taken in sorted order")
        names = sorted(own)
    strange = [name for name in own if name not in names]
    if strange:
        raise DataError(
            f"{source.name} has {len(strange)} classes that the model does not know (first:"
            f" {strange[0]}; it knows {', '.join(names[:3])} ...). Other names for them:"
            " --class-names FILE"
        )
    labels = np.asarray(source.labels)
    if labels.ndim == 2:
        columns = [names.index(name) for name in own]
        return columns, labels
    present = [own[k] for k in np.unique(labels)]
    columns = sorted(names.index(name) for name in present)
    place = {names[column]: row for row, column in enumerate(columns)}
    return columns, np.array([place[own[label]] for label in labels.tolist()])


def _predict(
    config: EvaluateConfig, model: Classifier, source: Source, world: World
) -> Predictions:
    device = next(model.parameters()).device
    workers = auto_workers(device.type) if config.workers is None else config.workers
    share = crop_share(config.crop_pct, model.encoder.image_size)
    precision = resolve_precision("auto", device)
    return predict(model, source, share, config.batch_size, workers, device, precision, world)


def _restricted(
    found: Predictions, source: Source, columns: list[int], labels: np.ndarray[Any, Any]
) -> Predictions:
    """Predictions among the classes that occur, with labels as positions among these."""
    row = {source.path(i): i for i in range(len(source))}
    rows = [row[path] for path in found.paths]
    return replace(found, logits=found.logits[:, columns], labels=labels[rows])


def _corruptions(
    config: EvaluateConfig,
    options: Options,
    model: Classifier,
    loaded: Loaded,
    corrupted: dict[str, dict[int, Path]],
    folder: RunFolder | None,
    world: World,
) -> Results:
    """Errors of each corruption and severity, and their means as published."""
    names = _names(config, model)
    sets = sum(len(s) for s in corrupted.values())
    say("Data", f"{len(corrupted)} corruptions, {sets} folders ({config.data})")
    if options.dry_run:
        return dry()
    errors: dict[str, dict[int, float]] = {}
    count = 0
    for name, levels in corrupted.items():
        errors[name] = {}
        for severity, path in sorted(levels.items()):
            source = open_source(str(path), decoding_of(model.encoder))
            columns, labels = match(source, names)
            found = _restricted(_predict(config, model, source, world), source, columns, labels)
            errors[name][severity] = 1 - metrics(found)["accuracy"]
            count += len(found.labels)
        mean = sum(errors[name].values()) / len(errors[name])
        say(name, f"error {mean:.1%} ({len(errors[name])} severities)")
    values = {**summary(errors, len(model.classes)), "n": count}
    for key, value in values.items():
        say("Result", f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}")
    if folder is not None and folder.writes:
        write_rows(folder.path / "corruptions.csv", corruption_table(errors))
        folder.write_json("results.json", {**values, "model": loaded.what, "data": config.data})
        say("Out", f"{folder.path / 'results.json'}, corruptions.csv")
    return Results(values, folder.path if folder else None)
