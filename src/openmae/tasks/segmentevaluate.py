"""`openmae segment evaluate`: a segmenter on images with masks."""

from __future__ import annotations

from openmae.config.base import Options
from openmae.config.segment import SegmentEvaluateConfig, SegmentPredictConfig
from openmae.data.maskfile import Labels
from openmae.data.masksets import Said, open_masks, test_part
from openmae.engine.device import resolve_precision
from openmae.engine.distributed import World, joined
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results
from openmae.methods.segment import Segmenter
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.fromencoder import open_trained
from openmae.tasks.reading import dry
from openmae.tasks.resultfolder import nothing_left, result_folder
from openmae.tasks.segmentation import PICTURES, Test, measures, score, tell, write_report
from openmae.weights import Loaded


def run(config: SegmentEvaluateConfig, options: Options) -> Results:
    """Score a segmenter; the result holds mIoU, mAcc, aAcc and n."""
    with joined(config.device) as world:
        return _evaluate(config, options, world)


def _evaluate(config: SegmentEvaluateConfig, options: Options, world: World) -> Results:
    model, loaded = open_segmenter(config)
    known = (model.classes, Labels.of(model.arguments["labels"]))
    said = Said(config.masks)
    sets = open_masks(config.data, said, decoding_of(model.encoder), None, known, test_only=True)
    source = test_part(sets)
    require_fit(source.images(), model.encoder)
    part = "the test part" if sets.held_out is not None else "all of it"
    say("Data", f"{len(source):,} images in {source.name} ({part})")
    for line in sets.lines:
        say("", line)
    for line in sets.warnings:
        warn(line)
    if options.dry_run:
        return dry()
    name = "segment-evaluate"
    folder = result_folder(config.out, loaded, name, config.data, world.main)
    with nothing_left(folder):
        found = score(model, source, how(config, model), world, PICTURES)
    values = measures(found.confusion)
    tell(values, found, model.classes, "")
    results = Results({**values, "n": found.n}, folder.path if folder else None)
    if folder is not None and folder.writes:
        write_report(folder.path, found, model, loaded.what)
        about = {"model": loaded.what, "data": config.data, "scales": list(config.scales)}
        folder.write_json("results.json", {**results, **about, "flip": config.flip})
        say("Out", f"{folder.path / 'results.json'}, per_class.csv, confusion.csv, pictures/")
    return results


def open_segmenter(
    config: SegmentEvaluateConfig | SegmentPredictConfig,
) -> tuple[Segmenter, Loaded]:
    """The segmenter that a task names, on its device.

    Raises:
        StorageError: it is another model.
    """
    refusal = f"is no segmenter yet. First: openmae segment {config.model} DATA"
    model, loaded = open_trained(config, Segmenter, refusal)
    height, width = model.encoder.image_size
    say(
        "Model",
        f"{loaded.what}; {model.encoder.create['model_name']}, windows of {height}x{width} px,"
        f" {len(model.classes)} classes",
    )
    return model, loaded


def how(config: SegmentEvaluateConfig | SegmentPredictConfig, model: Segmenter) -> Test:
    """How a task tests images."""
    precision = resolve_precision("auto", next(model.parameters()).device)
    return Test(config.stride, config.scales, config.flip, config.batch_size, precision)
