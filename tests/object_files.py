"""Small data sets with objects, in every format, that the tests of detection write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (32, 48)  # height, width


def picture(path: Path, number: int, boxes: list[tuple[int, int, int, int]]) -> None:
    """Dark noise with bright boxes x1, y1, x2, y2."""
    noise = np.random.default_rng(number).integers(0, 60, (*SIZE, 3), dtype=np.uint8)
    for x1, y1, x2, y2 in boxes:
        noise[y1:y2, x1:x2] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path)


def boxes_of(number: int) -> list[tuple[int, int, int, int]]:
    """Two objects of image `number`."""
    shift = number % 5
    return [(2 + shift, 4, 18 + shift, 20), (24, 10 - shift, 44, 28 - shift)]


def square(box: tuple[int, int, int, int]) -> list[float]:
    """A box as a polygon."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def coco(root: Path, count: int = 8, part: str = "train") -> Path:
    """annotations/instances_PART.json and PART/; classes 3 "cat" and 7 "dog"."""
    images, annotations = [], []
    for i in range(count):
        name = f"{i:03d}.png"
        picture(root / part / name, i, boxes_of(i))
        images.append({"id": 10 * i, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for k, (x1, y1, x2, y2) in enumerate(boxes_of(i)):
            annotations.append(
                {
                    "id": 100 + len(annotations),
                    "image_id": 10 * i,
                    "category_id": (3, 7)[k],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "segmentation": [square((x1, y1, x2, y2))],
                }
            )
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    file = root / "annotations" / f"instances_{part}.json"
    write(file, {"images": images, "annotations": annotations, "categories": categories})
    return file


def write(file: Path, values: Any) -> None:
    """A JSON file, its folder with it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))


def voc(root: Path, count: int = 5) -> Path:
    """Annotations/, JPEGImages/ and the lists of the parts."""
    for i in range(count):
        picture(root / "JPEGImages" / f"{i:03d}.png", i, boxes_of(i))
        objects = "".join(
            f"<object><name>{('cat', 'dog')[k]}</name><difficult>{int(i == 0 and k == 1)}"
            f"</difficult><bndbox><xmin>{b[0] + 1}</xmin><ymin>{b[1] + 1}</ymin>"
            f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
            for k, b in enumerate(boxes_of(i))
        )
        size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height></size>"
        text = f"<annotation><filename>{i:03d}.png</filename>{size}{objects}</annotation>"
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{i:03d}.xml").write_text(text)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{i:03d}\n" for i in range(count - 2)))
    (lists / "val.txt").write_text("".join(f"{i:03d}\n" for i in range(count - 2, count)))
    return root


def yolo(root: Path, count: int = 5) -> Path:
    """images/train, images/val, labels/ and data.yaml; the second object is a polygon."""
    for i in range(count):
        part = "train" if i < count - 2 else "val"
        picture(root / "images" / part / f"{i:03d}.png", i, boxes_of(i))
        (x1, y1, x2, y2), other = boxes_of(i)
        h, w = SIZE
        first = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h)
        second = [v / (w, h)[k % 2] for k, v in enumerate(square(other))]
        lines = [f"0 {' '.join(map(str, first))}", f"1 {' '.join(map(str, second))}"]
        (root / "labels" / part).mkdir(parents=True, exist_ok=True)
        (root / "labels" / part / f"{i:03d}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("names:\n  0: cat\n  1: dog\n")
    return root


def instances(root: Path, count: int = 5) -> Path:
    """A folder an image, with images/ and masks/."""
    for i in range(count):
        picture(root / f"id{i}" / "images" / f"id{i}.png", i, boxes_of(i))
        (root / f"id{i}" / "masks").mkdir()
        for k, (x1, y1, x2, y2) in enumerate(boxes_of(i)):
            mask = np.zeros(SIZE, dtype=np.uint8)
            mask[y1:y2, x1:x2] = 255
            Image.fromarray(mask).save(root / f"id{i}" / "masks" / f"{k}.png")
    return root
