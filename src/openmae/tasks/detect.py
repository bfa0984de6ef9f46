"""`openmae detect`: a detector on a pretrained encoder, as ViTDet. The same loop, and the same
exact resume, as pretraining.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from openmae.config.base import Options
from openmae.config.detect import DetectConfig
from openmae.data.check import Scan, scan
from openmae.data.dense import JitterTransform
from openmae.data.loader import Transform
from openmae.data.objects import BoxSource
from openmae.data.openobjects import open_object_split
from openmae.data.rle import require_dense
from openmae.data.sources import Source
from openmae.data.weights import weigh
from openmae.engine.log import say
from openmae.engine.loop import State
from openmae.engine.runfolder import Results, RunFolder
from openmae.engine.textfile import write_text
from openmae.errors import DataError
from openmae.methods.detect import Detector
from openmae.tasks.arguments import require_order
from openmae.tasks.baselines import FROZEN, RANDOM_WEIGHTS, train_with_baselines
from openmae.tasks.classification import write_rows
from openmae.tasks.detection import Found, find, results, score, tell, warn_bad, warn_findings
from openmae.tasks.detectpictures import draw
from openmae.tasks.fromencoder import FromEncoder
from openmae.tasks.kind import Job

_CACHE = 512_000_000  # bytes of images and masks that may stay in memory
_DRAWN = 8  # pictures of a run
_THRESHOLD = 0.5  # of what they show


def run(config: DetectConfig, options: Options) -> Results:
    """Train, or continue a run; with `baseline`, then the same recipe from random weights and with
    a frozen encoder.
    """
    require_dense()
    require_order(config.model, config.data)
    measures = ("box_AP", "box_AP50", "mask_AP", "mask_AP50")
    twins = (RANDOM_WEIGHTS, FROZEN)
    results = train_with_baselines(Detection, config, options, twins, measures)
    if "frozen_box_AP" not in results:
        return results
    for kind in ("box", "mask"):
        if f"{kind}_AP" in results:
            own, random, frozen = (
                100 * (results[f"{p}{kind}_AP"] or 0) for p in ("", "random_weights_", "frozen_")
            )
            words = f"pretrained {own:.1f}, random weights {random:.1f}, frozen {frozen:.1f}"
            say("Compare", f"{kind} AP: {words}")
    return results


class Detection(FromEncoder):
    """A detector on images with objects."""

    task = "detect"
    settings = DetectConfig
    architecture = ("model", "random_weights", "frozen", "image_size", "pyramid_dim", "window")

    def default_recipe(self, config: DetectConfig, device_type: str) -> str:
        if device_type != "cuda":
            return "tiny"
        source, _ = self._split(config, {})
        if len(source) < 50_000:
            return "small"
        depth = len(self.loaded(config).encoder.vit.blocks)
        size = "base" if depth <= 12 else "large" if depth <= 24 else "huge"
        return f"coco-vit-{size}-vitdet"

    def open_data(
        self, config: DetectConfig, resolved: Mapping[str, Any]
    ) -> tuple[Source, Source | None]:
        source, held_out = self._split(config, resolved)
        if resolved and source.classes != resolved["classes"]:
            odd = sorted(set(source.classes) ^ set(resolved["classes"]))[:3]
            raise DataError(
                f"{config.data} has other classes than the run ({', '.join(odd) or 'their order'})."
                " Give the data as they were, or another --out"
            )
        return weigh(source, config.sampling), held_out

    def _split(
        self, config: DetectConfig, resolved: Mapping[str, Any]
    ) -> tuple[BoxSource, BoxSource]:
        masks = resolved["masks"] if resolved else config.masks
        parts = open_object_split(
            config.data, config.val, config.images, masks, config.test_fraction
        )
        own = self.reads(config, resolved)
        first, second = (part.decoded(own) for part in parts)
        return first, second

    def look(self, config: DetectConfig, source: Source) -> Scan:
        assert isinstance(source, BoxSource)
        warn_findings(source)
        return scan(source, self.loaded(config).encoder.in_chans, measure=False, fixed=True)

    def resolve(self, config: DetectConfig, source: Source, found: Scan) -> dict[str, Any]:
        assert isinstance(source, BoxSource)
        encoder = self.loaded(config).encoder
        size = self.size(config)
        pictures = [source.picture(i) for i in range(len(source))]
        layers = [p.height * p.width * (encoder.in_chans + len(p.things)) for p in pictures]
        return {
            "cache": sum(layers) <= _CACHE,
            **self.of_encoder(config, size),
            "classes": source.classes,
            "class_ids": source.numbers,
            "masks": source.masks,
        }

    def recheck(self, config: DetectConfig, resolved: Mapping[str, Any], source: Source) -> None:
        scan(source, resolved["in_chans"], measure=False, fixed=True)

    def build(self, config: DetectConfig, resolved: Mapping[str, Any]) -> Detector:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return Detector(
                **resolved["encoder"],
                classes=resolved["classes"],
                image_size=tuple(resolved["image_size"]),
                masks=resolved["masks"],
                window=config.window,
                global_blocks=config.global_blocks,
                relative=config.relative,
                drop_path=config.drop_path,
                frozen=config.frozen,
                pyramid_dim=config.pyramid_dim,
                regions=config.regions,
                detections=config.detections,
                mean=resolved["mean"],
                std=resolved["std"],
                value_range=resolved["value_range"],
                bands=resolved["bands"],
            )

    def transform(self, config: DetectConfig, resolved: Mapping[str, Any]) -> Transform:
        height, width = resolved["image_size"]
        return JitterTransform((height, width), config.jitter, config.flip, config.seed)

    def measured(self, job: Job, state: State) -> dict[str, Any]:
        values, _, _ = self._test(job, state)
        return {k: v for k, v in values.items() if k.endswith(("_AP", "_AP50"))}

    def _test(self, job: Job, state: State) -> tuple[dict[str, Any], list[dict[str, Any]], Found]:
        config, resolved, source = job.config, job.resolved, job.held_out
        assert isinstance(source, BoxSource)
        assert isinstance(state.method, Detector)
        device, batch = torch.device(resolved["device"]), min(8, config.batch_size)
        workers, precision = config.workers or 0, resolved["precision"]
        found, bad = find(state.method, source, batch, workers, device, precision)
        warn_bad(bad)
        values, rows = score(source, found, state.method.masks)
        return values, rows, found

    def describe(self, job: Job, method: nn.Module) -> list[tuple[str, str]]:
        resolved, source = job.resolved, job.source
        assert isinstance(source, BoxSource)
        count = sum(p.numel() for p in method.parameters())
        trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
        name, (height, width) = resolved["encoder"]["encoder"], resolved["image_size"]
        what = "boxes and masks" if resolved["masks"] else "boxes"
        ids, number = resolved["class_ids"], len(resolved["classes"])
        gaps = (
            f" (ids {min(ids)} .. {max(ids)}, with gaps)" if max(ids) - min(ids) >= number else ""
        )
        several = "class" if number == 1 else "classes"
        objects = int(source.counts().sum())
        return [
            ("", f"{objects:,} objects of {number} {several}{gaps}, {what}"),
            (
                "Model",
                f"{name}, ViTDet, {height}x{width} px, {count / 1e6:.1f} M parameters,"
                f" {trained / 1e6:.1f} M trained{' (frozen encoder)' if job.config.frozen else ''}",
            ),
        ]

    def finish(self, job: Job, state: State, folder: RunFolder) -> dict[str, Any]:
        values, rows, found = self._test(job, state)
        source = job.held_out
        assert isinstance(source, BoxSource)
        write_rows(folder.path / "per_class.csv", rows)
        assert isinstance(state.method, Detector)
        what = f"{folder.path} at step {state.step:,}"
        write_found(folder, source, found, state.method, what)
        tell(values, rows, job.config.seed)
        logged = {k: v for k, v in values.items() if k.endswith(("_AP", "_AP50"))}
        folder.append("metrics.jsonl", {"step": state.step, **logged})
        return values | {"n_train": len(job.source)}

    def next_steps(self, job: Job, folder: RunFolder) -> list[str]:
        return [
            f"openmae detect predict {folder.path} IMAGES -o FOLDER",
            f"openmae detect evaluate {folder.path} DATA",
        ]


def write_found(
    folder: RunFolder, source: BoxSource, found: Found, model: Detector, what: str
) -> None:
    """Write detections.json with the ids of the annotations, and pictures of the first images, that
    say `what` the model is.
    """
    ids = [source.picture(i).id for i in range(len(source))]
    rows = results(found, source.numbers, ids.__getitem__)
    write_text(folder.path / "detections.json", json.dumps(rows) + "\n")
    draw(folder.pictures, source, found[:_DRAWN], model, _THRESHOLD, what)
