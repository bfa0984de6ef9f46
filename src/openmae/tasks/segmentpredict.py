"""`openmae segment predict`: masks of images, and pictures of them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.config.base import Options
from openmae.config.segment import SegmentPredictConfig
from openmae.data.maskfile import Labels
from openmae.data.source import Sample, Source
from openmae.data.sources import open_source
from openmae.engine.distributed import World, joined
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results
from openmae.errors import DataError, StorageError
from openmae.methods.segment import Segmenter
from openmae.report.display import visible
from openmae.report.maskpictures import colours_of, draw_classes, save_mask, shown_colours
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.reading import dry
from openmae.tasks.segmentation import classes_of
from openmae.tasks.segmentevaluate import how, open_segmenter
from openmae.tasks.writing import require_place


def run(config: SegmentPredictConfig, options: Options) -> Results:
    """Write a mask for every image, and a table of how much of it each class covers."""
    out = Path(config.out).expanduser()
    _require_outside(out, Path(config.data).expanduser())
    with joined(config.device) as world:
        return _predict(config, options, out, world)


def _require_outside(out: Path, data: Path) -> None:
    """Raise StorageError where results would lie among the images, or over something else."""
    require_place(out, "masks")
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise StorageError(f"{out} lies in the folder of the images: give a -o outside of {data}")


def _predict(config: SegmentPredictConfig, options: Options, out: Path, world: World) -> Results:
    model, loaded = open_segmenter(config)
    source = open_source(config.data, decoding_of(model.encoder), split="all")
    require_fit(source, model.encoder)
    if options.dry_run:
        return dry()
    names, labels = _names(source), Labels.of(model.arguments["labels"])
    colours = shown_colours(labels)
    rows: list[list[object]] = []
    bad: list[tuple[str, str]] = []
    try:
        for index in range(world.rank, len(source), world.size):
            try:
                sample = source[index]
            except DataError as error:
                bad.append((source.path(index), str(error)))
                continue
            found = classes_of(model, sample["image"], how(config, model))
            made = (
                _overlay(model, loaded.what, sample, found, colours, config.opacity)
                if config.overlays
                else None
            )
            _write(out, names[index], found, made, labels)
            counts = np.bincount(found.ravel(), minlength=len(model.classes)) / found.size
            rows.append([index, sample["path"], f"masks/{names[index]}", *counts.tolist()])
        parts = world.gather([rows, bad])
        rows = sorted(row for part in parts for row in part[0])
        bad = [(path, reason) for part in parts for path, reason in part[1]]
        if world.main and rows:
            _tables(out, rows, model)
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from None
    for path, reason in bad[:3]:
        warn(f"{path}: {reason}. Left out{f' ({len(bad)} in all)' if len(bad) > 3 else ''}")
    if not rows:
        raise DataError(f"no image could be read. First: {bad[0][0]}: {bad[0][1]}")
    say("Out", f"{len(rows):,} of {len(source):,} images -> {out}/masks, areas.csv, classes.csv")
    return Results({"n": len(rows), "unreadable": len(bad)}, out)


def _names(source: Source) -> list[str]:
    """Where the mask of each image goes: its path with .png, or .EXT.png where two would meet."""
    paths = [source.path(i).lstrip("/").replace("..", "_") for i in range(len(source))]
    plain = [str(PurePosixPath(path).with_suffix(".png")) for path in paths]
    often = Counter(plain)
    return [p if often[p] == 1 else f"{path}.png" for p, path in zip(plain, paths, strict=True)]


def _overlay(
    model: Segmenter,
    what: str,
    sample: Sample,
    found: NDArray[np.int64],
    colours: NDArray[np.uint8],
    opacity: float,
) -> Image.Image:
    picture, words = visible(sample["image"], model.encoder)
    return draw_classes(
        picture, found, model.classes, colours, sample["path"], what + words, opacity
    )


def _write(
    out: Path, name: str, found: NDArray[np.int64], drawn: Image.Image | None, labels: Labels
) -> None:
    (out / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
    save_mask(out / "masks" / name, found, labels)
    if drawn is not None:
        (out / "overlays" / name).parent.mkdir(parents=True, exist_ok=True)
        drawn.save(out / "overlays" / name)


def _tables(out: Path, rows: list[list[object]], model: Segmenter) -> None:
    """areas.csv: the share of each class in each image; classes.csv: what the values mean."""
    labels = Labels.of(model.arguments["labels"])
    with (out / "areas.csv").open(
        "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.writer(file)
        writer.writerow(["path", "mask", *model.classes])
        for _, path, name, *shares in rows:
            writer.writerow([path, name, *(f"{share:.6f}" for share in shares)])
    with (out / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["value", "class", "red", "green", "blue"])
        for value, name, colour in zip(
            labels.values, model.classes, colours_of(labels).tolist(), strict=True
        ):
            writer.writerow([value, name, *colour])
