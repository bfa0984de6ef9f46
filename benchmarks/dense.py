"""Detection against torchvision's Mask R-CNN R50, or segmentation against its DeepLabV3 R50 (random
weights): images/s and peak memory of training steps and of prediction, on the same images, objects
and machine.

The yardsticks have no ViT, so the numbers say what a plain backbone costs. Steps of the two
alternate, so that a slow minute of the machine hits both; memory is measured in a process of each.

    python benchmarks/dense.py --device cpu --size 320 --batch-size 2 --json out.json
    python benchmarks/dense.py --task segment --device cpu --size 320 --batch-size 2 --json out.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openmae.engine.device import autocast, resolve_device, resolve_precision
from openmae.engine.measure import wait
from openmae.engine.memory import peak, reset_peak
from openmae.engine.optim import adamw
from openmae.methods.detect import Detector
from openmae.methods.segment import Segmenter
from openmae.randomness import Rand

NAMES = {
    "detect": ("openmae ViTDet", "torchvision Mask R-CNN R50"),
    "segment": ("openmae UPerNet", "torchvision DeepLabV3 R50"),
}
CLASSES, OBJECTS = 80, 7  # of COCO, and its mean number of objects an image
LABELS = 150  # of ADE20K


Made = tuple[nn.Module, Callable[[], Tensor], Callable[[], Any]]
"""A model, its loss of the data, and its prediction of them."""


class Data:
    """Images of noise and some boxes with masks that fill them."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        rows, size = args.batch_size, args.size
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randint(
            0, 256, (rows, 3, size, size), dtype=torch.uint8, generator=draw
        ).to(device)
        self.boxes, self.labels, self.masks = [], [], []
        for _ in range(rows):
            corner = torch.rand(OBJECTS, 2, generator=draw) * 0.6 * size
            side = (0.1 + 0.3 * torch.rand(OBJECTS, 2, generator=draw)) * size
            boxes = torch.cat([corner, corner + side], 1)
            masks = torch.zeros(OBJECTS, size, size, dtype=torch.uint8)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
                mask[y1:y2, x1:x2] = 1
            self.boxes.append(boxes.to(device))
            self.labels.append(torch.randint(0, CLASSES, (OBJECTS,), generator=draw).to(device))
            self.masks.append(masks.to(device))
        self.map = torch.randint(0, LABELS, (rows, size, size), generator=draw).to(device)


def detector(args: argparse.Namespace, data: Data) -> Made:
    """ViTDet as `openmae detect` makes it."""
    model = Detector(
        args.model,
        [str(i) for i in range(CLASSES)],
        args.size,
        pyramid_dim=args.pyramid_dim,
        regions=args.regions,
    )

    def loss() -> Tensor:
        batch = {"image": data.images, "boxes": data.boxes, "labels": data.labels}
        return model(batch | {"masks": data.masks}, Rand(0, 0, 0.0, 0, args.batch_size))["loss"]

    return model, loss, lambda: model.detect(data.images)


def mask_rcnn(args: argparse.Namespace, data: Data) -> Made:
    """With its own sampling numbers, and images at their size."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        min_size=args.size,
        max_size=args.size,
        box_batch_size_per_image=args.regions,
    )

    def images() -> list[Tensor]:
        return [i.float() / 255 for i in data.images]

    def loss() -> Tensor:
        pairs = zip(data.boxes, data.labels, data.masks, strict=True)
        targets = [{"boxes": b, "labels": c + 1, "masks": m} for b, c, m in pairs]
        return sum(model(images(), targets).values())

    return model, loss, lambda: model(images())


def segmenter(args: argparse.Namespace, data: Data) -> Made:
    """UPerNet with its auxiliary head, as `openmae segment` makes it."""
    model = Segmenter(args.model, [str(i) for i in range(LABELS)], args.size)

    def loss() -> Tensor:
        batch = {"image": data.images, "mask": data.map}
        return model(batch, Rand(0, 0, 0.0, 0, args.batch_size))["loss"]

    return model, loss, lambda: model.logits(data.images)


def deeplab(args: argparse.Namespace, data: Data) -> Made:
    """With its auxiliary head, weighed as torchvision's reference does."""
    from torchvision.models.segmentation import deeplabv3_resnet50

    model = deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=LABELS, aux_loss=True
    )

    def loss() -> Tensor:
        out = model(data.images.float() / 255)
        main, beside = (F.cross_entropy(out[name], data.map) for name in ("out", "aux"))
        return main + 0.5 * beside

    return model, loss, lambda: model(data.images.float() / 255)["out"]


MAKERS = dict(
    zip(
        (*NAMES["detect"], *NAMES["segment"]),
        (detector, mask_rcnn, segmenter, deeplab),
        strict=True,
    )
)


def steps(
    name: str, args: argparse.Namespace, data: Data, device: torch.device
) -> tuple[Callable[[], None], Callable[[], None], int]:
    """(a training step, a prediction, number of parameters)."""
    torch.manual_seed(0)
    model, loss, answer = MAKERS[name](args, data)
    model.to(device)
    groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    optimizer = adamw(model, 1e-6, (0.9, 0.999), 0.1, groups)
    precision = resolve_precision("auto", device)

    def train() -> None:
        model.train()
        with autocast(precision, device):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def predict() -> None:
        model.eval()
        with autocast(precision, device):
            answer()

    return train, predict, sum(p.numel() for p in model.parameters())


def child(args: argparse.Namespace) -> dict[str, int]:
    """Peak memory of one of the two in this process."""
    device = resolve_device(args.device)
    train, predict, _ = steps(args.child, args, Data(args, device), device)
    found = {}
    for kind, step in (("predict", predict), ("train", train)):
        wait(device)
        reset_peak(device)
        for _ in range(2):
            step()
        wait(device)
        found[f"{kind}_peak_bytes"] = peak(device)
    return found


def measured(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of both, their steps in turn."""
    device = resolve_device(args.device)
    data = Data(args, device)
    made = {name: steps(name, args, data, device) for name in NAMES[args.task]}
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(args.repeats + 1):
        for at, kind in enumerate(("train", "predict")):
            for name, parts in made.items():
                start = time.perf_counter()
                parts[at]()
                wait(device)
                if number:  # the first one warms up
                    times.setdefault((name, kind), []).append(time.perf_counter() - start)
    rows = []
    for name in made:
        row: dict[str, Any] = {"name": name, "parameters": made[name][2], **memory(name)}
        for kind in ("train", "predict"):
            own = record.summary(times[name, kind])
            row[kind] = own | {"images_per_s": args.batch_size / own["median_s"]}
        rows.append(row)
    return rows


def memory(name: str) -> dict[str, Any]:
    """Of a process that does nothing else."""
    words = [sys.executable, __file__, *sys.argv[1:], "--child", name]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    with contextlib.suppress(ValueError, IndexError):
        return dict(json.loads(done.stdout.splitlines()[-1]))
    return {"memory_error": done.stderr[-300:]}


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=list(NAMES), default="detect")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--pyramid-dim", type=int, default=256)
    parser.add_argument("--regions", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child")
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    args = arguments()
    if args.child:
        print(json.dumps(child(args)))
        return
    rows = measured(args)
    for row in rows:
        for kind in ("train", "predict"):
            memory_gb = row.get(f"{kind}_peak_bytes", 0) / 1e9
            speed = row[kind]["images_per_s"]
            print(f"{row['name']:28} {kind:8} {speed:8.2f} img/s  {memory_gb:6.2f} GB")
    settings = {k: v for k, v in vars(args).items() if k not in ("json", "child")}
    where = record.origin(resolve_device(args.device))
    record.write(args.json, {**where, "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
