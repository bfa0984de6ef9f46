"""`openmae detect predict`: the objects of images, as COCO results and as pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openmae.config.base import Options
from openmae.config.detect import DetectPredictConfig
from openmae.data.sources import open_source
from openmae.engine.device import auto_workers, resolve_precision
from openmae.engine.distributed import World, joined
from openmae.engine.log import say
from openmae.engine.runfolder import Results, RunFolder
from openmae.engine.textfile import write_text
from openmae.errors import StorageError
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.detectevaluate import device_of, open_detector
from openmae.tasks.detection import Found, find, results, warn_bad
from openmae.tasks.detectpictures import draw
from openmae.tasks.reading import dry
from openmae.tasks.resultfolder import nothing_left
from openmae.tasks.writing import require_place

_NAMED = {"images.json", "detections.json", "pictures"}
"""What it writes, and may write again."""


def run(config: DetectPredictConfig, options: Options) -> Results:
    """Write detections.json (COCO results), images.json (their ids and classes) and pictures/."""
    out = Path(config.out).expanduser()
    _require_own(out)
    with joined(config.device) as world:
        return _predict(config, options, out, world)


def _require_own(out: Path) -> None:
    """Raise StorageError unless a folder can be written, or written again."""
    require_place(out, "objects")
    if out.is_dir():
        others = sorted(p.name for p in out.iterdir() if p.name not in _NAMED)
        if others:
            raise StorageError(f"{out} holds other files ({others[0]} ...). Give another -o")


def _predict(config: DetectPredictConfig, options: Options, out: Path, world: World) -> Results:
    model, loaded = open_detector(config)
    source = open_source(config.data, decoding_of(model.encoder), split="all")
    require_fit(source, model.encoder)
    if options.dry_run:
        return dry()
    device, workers = device_of(model), config.workers
    workers = auto_workers(device.type) if workers is None else workers
    precision = resolve_precision("auto", device)
    found, bad = find(model, source, config.batch_size, workers, device, precision, world)
    if not world.main:
        return Results({})
    warn_bad(bad)
    try:
        out.mkdir(exist_ok=True)
        folder = RunFolder(out)
        with nothing_left(folder):
            write_text(out / "detections.json", json.dumps(results(found)) + "\n")
            folder.write_json("images.json", _index(found, model.classes, bad))
            first = found[: config.pictures]
            drawn = draw(out / "pictures", source, first, model, config.threshold, loaded.what)
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from None
    sure = sum(s >= config.threshold for record in found for s in record["scores"])
    say(
        "Result", f"{sure:,} objects of score {config.threshold:g} or more in {len(found):,} images"
    )
    say("Out", f"{out / 'detections.json'} (COCO results), images.json, pictures/ ({drawn})")
    values = {"n": len(found), "objects": sure, "unreadable": len(bad)}
    return Results(values, out)


def _index(found: Found, classes: list[str], bad: list[tuple[str, str]]) -> dict[str, Any]:
    """What the ids of detections.json mean, in the form of COCO's own lists."""
    images = [
        {"id": r["id"] + 1, "file_name": r["path"], "height": r["size"][0], "width": r["size"][1]}
        for r in found
    ]
    names = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    return {"images": images, "categories": names, "unreadable": [list(row) for row in bad]}
