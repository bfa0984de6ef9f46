"""`openmae detect evaluate`: AP of a detector on images with objects."""

from __future__ import annotations

import torch

from openmae.config.base import Options
from openmae.config.detect import DetectEvaluateConfig, DetectPredictConfig
from openmae.data.objects import BoxSource
from openmae.data.openobjects import open_objects
from openmae.data.rle import require_dense
from openmae.engine.device import auto_workers, resolve_precision
from openmae.engine.distributed import World, joined
from openmae.engine.log import say
from openmae.engine.runfolder import Results
from openmae.errors import DataError
from openmae.methods.detect import Detector
from openmae.tasks.classification import write_rows
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.detect import write_found
from openmae.tasks.detection import find, score, tell, warn_bad, warn_findings
from openmae.tasks.fromencoder import open_trained
from openmae.tasks.reading import dry
from openmae.tasks.resultfolder import nothing_left, result_folder
from openmae.weights import Loaded


def run(config: DetectEvaluateConfig, options: Options) -> Results:
    """Score a detector; the result holds AP of boxes and masks, and the number of images."""
    require_dense("detect evaluate")
    with joined(config.device) as world:
        return _evaluate(config, options, world)


def _evaluate(config: DetectEvaluateConfig, options: Options, world: World) -> Results:
    model, loaded = open_detector(config)
    source = open_objects(config.data, config.images, None, config.part)
    source = matched(source, model, config.data).decoded(decoding_of(model.encoder))
    warn_findings(source)
    require_fit(source, model.encoder)
    say("Data", f"{len(source):,} images, {int(source.counts().sum()):,} objects ({config.data})")
    masks = model.masks and source.masks
    if model.masks and not masks:
        say("", "they have boxes and no masks: masks are not scored")
    if options.dry_run:
        return dry()
    folder = result_folder(config.out, loaded, "evaluate", config.data, world.main)
    with nothing_left(folder):
        device, workers = device_of(model), config.workers
        workers = auto_workers(device.type) if workers is None else workers
        precision = resolve_precision("auto", device)
        found, bad = find(model, source, config.batch_size, workers, device, precision, world)
        warn_bad(bad)
        values, rows = score(source, found, masks)
    tell(values, rows)
    if folder is not None and folder.writes:
        write_rows(folder.path / "per_class.csv", rows)
        write_found(folder, source, found, model, loaded.what)
        about = {"model": loaded.what, "data": config.data}
        folder.write_json("results.json", {**values, **about})
        say("Out", f"{folder.path / 'results.json'}, per_class.csv, detections.json, pictures/")
    return Results(values, folder.path if folder else None)


def device_of(model: Detector) -> torch.device:
    """Where a model is."""
    return next(model.parameters()).device


def open_detector(config: DetectEvaluateConfig | DetectPredictConfig) -> tuple[Detector, Loaded]:
    """The detector that a task names.

    Raises:
        StorageError: it is something else.
    """
    refusal = f"finds no objects yet. First: openmae detect {config.model} DATA"
    model, loaded = open_trained(config, Detector, refusal)
    height, width = model.encoder.image_size
    what = "boxes and masks" if model.masks else "boxes"
    several = "1 class" if len(model.classes) == 1 else f"{len(model.classes)} classes"
    say("Model", f"{loaded.what}; {height}x{width} px, {several}, {what}")
    return model, loaded


def matched(source: BoxSource, model: Detector, data: str) -> BoxSource:
    """A source whose labels are the outputs of the model, by the names of their classes.

    Raises:
        DataError: a class with objects that the model does not know.
    """
    number = {name: i for i, name in enumerate(model.classes)}
    counts = source.counts()
    odd = [n for n, c in zip(source.classes, counts, strict=True) if c and n not in number]
    if odd:
        many = "a class" if len(odd) == 1 else f"{len(odd)} classes"
        more = f" ... ({len(model.classes)} in all)" if len(model.classes) > 6 else ""
        raise DataError(
            f"{data} has objects of {many} that the model does not know (first: {odd[0]}). It"
            f" knows: {', '.join(model.classes[:6])}{more}"
        )
    ids = dict(zip(source.classes, source.numbers, strict=True))
    free = max(source.numbers, default=0)
    for picture in source.pictures:
        picture.things = [t for t in picture.things if source.classes[t.label] in number]
        for thing in picture.things:
            thing.label = number[source.classes[thing.label]]
    source.classes = list(model.classes)
    source.numbers = [ids.get(name, free + 1 + i) for i, name in enumerate(model.classes)]
    return source
