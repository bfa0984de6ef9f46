"""AP of boxes and masks equals pycocotools, on crafted cases and on COCO's own files."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import object_files as files
import pytest

from openmae.data.objects import BoxSource
from openmae.data.openobjects import open_objects
from openmae.tasks.detection import Found, coco_scores, results, score, truth

pytest.importorskip("faster_coco_eval")

MINI = Path.home() / "data" / "coco_mini"
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def by_pycocotools(known: dict[str, Any], guessed: list[dict[str, Any]], kind: str) -> list[float]:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = json.loads(json.dumps(known))
        dataset.createIndex()
        run = COCOeval(dataset, dataset.loadRes(json.loads(json.dumps(guessed))), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(v) for v in run.stats[:6]]


def perfect(source: BoxSource, noise: float = 0.0, seed: int = 0) -> Found:
    """The truth itself as detections, or moved about, dropped, doubled and mislabelled."""
    from openmae.data.rle import packed

    rng = np.random.default_rng(seed)
    found: Found = []
    for i in range(len(source)):
        picture = source.picture(i)
        size = picture.height, picture.width
        record: dict[str, Any] = {"id": i, "path": picture.path, "size": list(size)}
        record |= {"boxes": [], "scores": [], "labels": [], "masks": []}
        for thing in picture.things:
            for _ in range(1 + (rng.random() < noise)):
                if thing.crowd or rng.random() < noise / 2:
                    continue
                moved = np.roll(thing.mask(*size), rng.integers(-1, 2, 2) if noise else (0, 0))
                wrong = rng.random() < noise / 4
                label = int(rng.integers(len(source.classes))) if wrong else thing.label
                shift = rng.normal(0, 4 * noise, 4)
                record["boxes"].append((np.array(thing.box) + shift).tolist())
                record["scores"].append(float(rng.random()) if noise else 1.0)
                record["labels"].append(label)
                record["masks"].append(packed(moved))
        found.append(record)
    return found


def close(found: Any, expected: list[float]) -> None:
    given = [-1.0 if v is None else v for v in found]
    np.testing.assert_allclose(given, expected, atol=1e-12)


@pytest.fixture(scope="module")
def crafted(tmp_path_factory) -> BoxSource:
    """Eight images, two classes, one crowd."""
    file = files.coco(tmp_path_factory.mktemp("crafted"))
    values = json.loads(file.read_text())
    counts = [100, 400, 1036]
    crowd = {"iscrowd": 1, "segmentation": {"size": [32, 48], "counts": counts}}
    values["annotations"][5].update(crowd)
    files.write(file, values)
    return open_objects(str(file))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_crafted_cases(crafted, seed, kind):
    known, guessed = truth(crafted), results(perfect(crafted, 0.4, seed))
    numbers, classes = coco_scores(known, guessed, kind)
    close(numbers, by_pycocotools(known, guessed, kind))
    assert 0 < numbers[0] < 1
    for number, (own, half) in enumerate(classes, 1):
        only = known | {"categories": [c for c in known["categories"] if c["id"] == number]}
        only["annotations"] = [a for a in known["annotations"] if a["category_id"] == number]
        few = [g for g in guessed if g["category_id"] == number]
        close([own, half], by_pycocotools(only, few, kind)[:2])


def test_the_truth_scores_one_and_nothing_scores_zero(crafted):
    values, rows = score(crafted, perfect(crafted), True)
    assert (values["box_AP"], values["mask_AP"]) == (pytest.approx(1), pytest.approx(1))
    assert (values["n"], values["objects"]) == (8, 15)
    assert [row["n"] for row in rows] == [8, 7]
    nothing = [r | {"boxes": [], "scores": [], "labels": [], "masks": []} for r in perfect(crafted)]
    values, rows = score(crafted, nothing, True)
    assert values["box_AP"] == values["mask_AP50"] == 0
    assert [row["mask_AP"] for row in rows] == [0, 0]


def test_a_half_by_hand(tmp_path):
    """Two objects of one class, one found exactly: precision 1 up to recall 0.5, of 101 points."""
    source = open_objects(str(files.instances(tmp_path, 1)))
    found = perfect(source)
    for name in ("boxes", "scores", "labels", "masks"):
        found[0][name] = found[0][name][:1]
    values, _ = score(source, found, True)
    assert values["box_AP"] == pytest.approx(51 / 101)
    assert values["mask_AP75"] == pytest.approx(51 / 101)


def test_an_image_that_was_not_read_is_left_out(crafted):
    values, _ = score(crafted, perfect(crafted)[1:], True)
    assert values["n"] == 7
    assert values["box_AP"] == pytest.approx(1)


@pytest.mark.skipif(not MINI.is_dir(), reason="needs ~/data/coco_mini")
@pytest.mark.parametrize("part", ["train", "val"])
def test_coco_mini_scores_itself_one(part):
    """Also by pycocotools on COCO's own file, ids and polygons as they are there."""
    source = open_objects(str(MINI), part=part)
    found = perfect(source)
    values, _ = score(source, found, True)
    assert values["box_AP"] == pytest.approx(1, abs=1e-9)
    assert values["mask_AP"] == pytest.approx(1, abs=1e-9)
    own = json.loads((MINI / "annotations" / f"instances_{part}2017.json").read_text())
    ids = [source.picture(i).id for i in range(len(source))]
    guessed = results(found, source.numbers, ids.__getitem__)
    for kind in ("bbox", "segm"):
        assert by_pycocotools(own, guessed, kind)[0] == pytest.approx(1, abs=1e-9)


@pytest.mark.skipif(not MINI.is_dir(), reason="needs ~/data/coco_mini")
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_mini_with_mistakes(kind):
    source = open_objects(str(MINI), part="val")
    known, guessed = truth(source), results(perfect(source, 0.5))
    numbers, _ = coco_scores(known, guessed, kind)
    close(numbers, by_pycocotools(known, guessed, kind))
    assert len(numbers) == len(NAMES)
