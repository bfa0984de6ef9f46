"""A detector at test time: the objects of a source, and their scores as COCO defines them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openmae.data.dense import FitBatches
from openmae.data.loader import loader
from openmae.data.objects import BoxSource, Thing
from openmae.data.rle import packed
from openmae.data.source import Source
from openmae.engine.device import autocast
from openmae.engine.distributed import World
from openmae.engine.log import say, warn
from openmae.engine.spread import Part, in_order, own_batches
from openmae.errors import DataError
from openmae.methods.detect import Detector
from openmae.models.roiheads import paste

Found = list[dict[str, Any]]
"""Of each image: id (its place in the source), path, size [height, width], boxes (x1, y1, x2, y2 in
its own pixels), scores, labels, and with a mask head masks (COCO's packed text).
"""

_STATS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@torch.inference_mode()
def find(
    model: Detector,
    source: Source,
    batch_size: int,
    workers: int,
    device: torch.device,
    precision: str,
    world: World | None = None,
) -> tuple[Found, list[tuple[str, str]]]:
    """Run the detector on every image, in order; and (path, reason) of what could not be read. The
    ranks of a `world` share the work, and all get the result.

    Raises:
        DataError: no image could be read.
    """
    training = model.training
    model.eval()
    world = world or World()
    batches = FitBatches(source, model.encoder.image_size, batch_size)

    def parts() -> Iterator[Part]:
        for batch in loader(batches, own_batches(world, len(batches)), workers):
            if batch["image"] is None:
                yield Part(bad=batch["bad"])
                continue
            with autocast(precision, device):
                found = model.detect(batch["image"].to(device), batch["fitted"])
            rows = [_record(batch, i, own) for i, own in enumerate(found)]
            yield Part(np.zeros((len(rows), 1), np.float32), [], rows, batch["bad"])

    found: Found = []
    bad: list[tuple[str, str]] = []
    for part in in_order(world, len(batches))(parts()):  # records travel as the words of a part
        found += [json.loads(row) for row in part.paths]
        bad += part.bad
    model.train(training)
    if not found:
        raise DataError(f"no image could be read. First: {bad[0][0]}: {bad[0][1]}")
    return found, bad


def _record(batch: Mapping[str, Any], i: int, own: Mapping[str, Tensor]) -> str:
    """What was found in image i of a batch, in the pixels of the image itself, as JSON."""
    (height, width), fitted = batch["size"][i], batch["fitted"][i]
    scale = torch.tensor([width / fitted[1], height / fitted[0]] * 2)
    boxes = own["boxes"].float().cpu() * scale
    record: dict[str, Any] = {
        "id": batch["id"][i],
        "path": batch["path"][i],
        "size": [height, width],
        "boxes": boxes.tolist(),
        "scores": own["scores"].float().tolist(),
        "labels": own["labels"].tolist(),
    }
    if "masks" in own:
        pairs = zip(own["masks"].float().cpu(), boxes, strict=True)
        whole = [paste(mask[None], box[None], (height, width))[0] for mask, box in pairs]
        record["masks"] = [packed(mask.numpy()) for mask in whole]
    return json.dumps(record)


def truth(source: BoxSource, indices: Iterable[int] | None = None) -> dict[str, Any]:
    """The objects of a source, or of some of its images, as COCO's own code takes them; images,
    objects and classes are numbered from 1.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(source)) if indices is None else indices:
        picture = source.picture(index)
        images.append({"id": index + 1, "height": picture.height, "width": picture.width})
        for thing in picture.things:
            entry = _entry(thing, picture.height, picture.width, source.masks)
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **entry})
    names = [{"id": i + 1, "name": name} for i, name in enumerate(source.classes)]
    return {"images": images, "annotations": annotations, "categories": names}


def _entry(thing: Thing, height: int, width: int, masks: bool) -> dict[str, Any]:
    x1, y1, x2, y2 = thing.box
    box, area = [x1, y1, x2 - x1, y2 - y1], thing.area
    entry: dict[str, Any] = {
        "category_id": thing.label + 1,
        "bbox": box,
        "iscrowd": int(thing.crowd),
    }
    if masks:
        mask = thing.mask(height, width) if thing.has_mask else _box_mask(thing, height, width)
        entry["segmentation"] = {"size": [height, width], "counts": packed(mask)}
        area = float(mask.sum()) if area is None else area
    return entry | {"area": box[2] * box[3] if area is None else area}


def _box_mask(thing: Thing, height: int, width: int) -> Any:
    """Of a crowd that has a box alone."""
    mask = np.zeros((height, width), dtype=np.bool_)
    x1, y1, x2, y2 = (round(v) for v in thing.box)
    mask[y1:y2, x1:x2] = True
    return mask


def results(
    found: Found, numbers: list[int] | None = None, ids: Any = None
) -> list[dict[str, Any]]:
    """COCO results: one entry an object. `numbers` are the ids of the classes and `ids` those of
    the images; by default both count from 1.
    """
    out = []
    for record in found:
        masks = record.get("masks")
        for i, (x1, y1, x2, y2) in enumerate(record["boxes"]):
            label = record["labels"][i]
            entry = {
                "image_id": record["id"] + 1 if ids is None else ids(record["id"]),
                "category_id": label + 1 if numbers is None else numbers[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": record["scores"][i],
            }
            if masks is not None:
                entry["segmentation"] = {"size": record["size"], "counts": masks[i]}
            out.append(entry)
    return out


def score(
    source: BoxSource, found: Found, masks: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(flat scores in [0, 1], rows of a table of the classes): box_AP, box_AP50, box_AP75 and of
    small, medium and large objects, the same of masks. None where there is no such object.
    """
    read = sorted(record["id"] for record in found)  # what cannot be read is left out
    known, guessed = truth(source, read), results(found)
    counts = source.subset(read).counts()
    rows: list[dict[str, Any]] = [
        {"class": name, "n": int(n)} for name, n in zip(source.classes, counts, strict=True)
    ]
    values: dict[str, Any] = {"n": len(found), "objects": int(counts.sum())}
    for kind, word in (("box", "bbox"), ("mask", "segm")):
        if kind == "mask" and not masks:
            continue
        numbers, classes = coco_scores(known, guessed, word)
        values |= {f"{kind}_{name}": value for name, value in zip(_STATS, numbers, strict=True)}
        for row, (mean, half) in zip(rows, classes, strict=True):
            row |= {f"{kind}_AP": mean, f"{kind}_AP50": half}
    return values, rows


def coco_scores(
    known: dict[str, Any], guessed: list[dict[str, Any]], kind: str
) -> tuple[list[float | None], list[tuple[float | None, float | None]]]:
    """AP, AP50, AP75, small, medium, large; and (AP, AP50) of each class, by faster-coco-eval.
    `kind` is "bbox" or "segm".
    """
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = known | {"annotations": _copies(known["annotations"])}
        dataset.createIndex()
        labels = {a["category_id"] for a in known["annotations"] if not a["iscrowd"]}
        if not guessed:
            nothing = [0.0 if c["id"] in labels else None for c in known["categories"]]
            return [0.0] * 3 + [None] * 3, [(value, value) for value in nothing]
        run = COCOeval_faster(
            dataset, dataset.loadRes(_copies(guessed)), kind, print_function=_silent
        )
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"]  # (thresholds, recalls, classes, areas, limits)
    classes = [
        (_mean(precision[:, :, k, 0, -1]), _mean(precision[0, :, k, 0, -1]))
        for k in range(len(known["categories"]))
    ]
    return [_known(v) for v in run.stats[:6]], classes


def _copies(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """COCO's code writes into what it is given."""
    return [
        e | {"segmentation": dict(e["segmentation"])} if "segmentation" in e else dict(e)
        for e in entries
    ]


def _silent(*_: Any, **__: Any) -> None: ...


def _known(value: Any) -> float | None:
    return None if value < 0 else float(value)


def _mean(values: Any) -> float | None:
    values = np.asarray(values)
    return float(values[values > -1].mean()) if (values > -1).any() else None


def tell(values: Mapping[str, Any], rows: list[dict[str, Any]], seed: int | None = None) -> None:
    """Print the result, and the classes that are found worst."""
    drawn = f"n={values['n']:,}" + (f", seed {seed}" if seed is not None else "")
    for number, kind in enumerate(k for k in ("box", "mask") if f"{k}_AP" in values):
        words = "   ".join(
            f"{name} {'none' if (v := values[f'{kind}_{name}']) is None else f'{100 * v:.1f}'}"
            for name in _STATS
        )
        say(
            "" if number else "Result",
            f"{kind}: {words}   ({drawn})" if not number else f"{kind}: {words}",
        )
    known = sorted((r for r in rows if r["box_AP"] is not None), key=lambda r: r["box_AP"])
    if len(known) > 1:
        say("", "worst: " + ", ".join(f"{r['class']} {100 * r['box_AP']:.1f}" for r in known[:3]))


def warn_bad(bad: list[tuple[str, str]]) -> None:
    """Name the first files that could not be read."""
    more = f" ({len(bad)} in all)" if len(bad) > 3 else ""
    for path, reason in bad[:3]:
        warn(f"{path}: {reason}. Left out{more}")


def warn_findings(source: BoxSource, limit: int = 8) -> None:
    """Say what was wrong with the annotations."""
    lines = source.findings.lines()
    for line in lines[:limit]:
        warn(line)
    if len(lines) > limit:
        warn(f"and {len(lines) - limit} more kinds of mistakes in {source.name}")
