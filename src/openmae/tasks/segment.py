"""`openmae segment`: a segmenter from a pretrained encoder, as in Tables 5 and 7 of the paper. The
same loop, and the same exact resume, as pretraining.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from openmae.config.base import Options
from openmae.config.segment import SegmentConfig
from openmae.data.check import Scan, scan
from openmae.data.crops import CropTransform
from openmae.data.loader import Transform
from openmae.data.maskfile import Labels
from openmae.data.masks import MaskSource
from openmae.data.masksets import MaskSets, Said, open_masks
from openmae.data.sources import Source
from openmae.data.weights import weigh
from openmae.engine.log import say, warn
from openmae.engine.loop import State
from openmae.engine.runfolder import Results, RunFolder
from openmae.errors import DataError
from openmae.methods.segment import Segmenter
from openmae.tasks.arguments import require_order
from openmae.tasks.baselines import FROZEN, RANDOM_WEIGHTS, train_with_baselines
from openmae.tasks.fromencoder import FromEncoder
from openmae.tasks.kind import Job
from openmae.tasks.segmentation import PICTURES, Scores, Test, measures, score, tell, write_report


def run(config: SegmentConfig, options: Options) -> Results:
    """Train a segmenter, or continue a run; with `baseline`, then its twins."""
    require_order(config.model, config.data)
    twins = (RANDOM_WEIGHTS, FROZEN)
    results = train_with_baselines(Segmenting, config, options, twins, ("mIoU", "aAcc"))
    for twin in twins:
        if f"{twin.name}_mIoU" in results:
            own, other = results["mIoU"], results[f"{twin.name}_mIoU"]
            say("Compare", f"mIoU {own:.1%}, {twin.words} {other:.1%} ({own - other:+.1%})")
    return results


class Segmenting(FromEncoder):
    """A class for every pixel of images with masks."""

    task = "segment"
    settings = SegmentConfig
    architecture = ("model", "random_weights", "frozen", "head", "head_dim", "image_size")

    def __init__(self) -> None:
        super().__init__()
        self._sets: MaskSets | None = None

    def default_recipe(self, config: SegmentConfig, device_type: str) -> str:
        if device_type != "cuda":
            return "tiny"
        sets = open_masks(config.data, _said(config), None, config.test_fraction, _NOTHING, False)
        if len(sets.train) < 5000:
            return "small"
        depth = len(self.loaded(config).encoder.vit.blocks)
        return "ade20k-vit-base" if depth <= 12 else "ade20k-vit-large"

    def open_data(
        self, config: SegmentConfig, resolved: Mapping[str, Any]
    ) -> tuple[Source, Source | None]:
        known = None
        reads = self.reads(config, resolved)
        if resolved:
            known = (resolved["classes"], Labels.of(resolved["labels"]))
        share = config.test_fraction
        sets = open_masks(config.data, _said(config), reads, share, known, not resolved)
        self._sets = sets
        return weigh(sets.train, config.sampling), sets.held_out

    def look(self, config: SegmentConfig, source: Source) -> Scan:
        assert isinstance(source, MaskSource)
        assert self._sets is not None
        for number, line in enumerate(self._sets.lines):
            say("" if number else "Masks", line)
        for line in self._sets.warnings:
            warn(line)
        bad = [bad for look in self._sets.looks for bad in look.bad]
        if bad and config.bad_images == "error":
            raise DataError(f"{bad[0][0]}: {bad[0][1]}. Remove it, or --bad-images skip")
        channels = self.loaded(config).encoder.in_chans
        return scan(source.images(), channels, measure=False, fixed=True)

    def resolve(self, config: SegmentConfig, source: Source, found: Scan) -> dict[str, Any]:
        encoder, sets = self.loaded(config).encoder, self._sets
        assert sets is not None
        size = self.size(config)
        if config.colours and (encoder.in_chans != 3 or encoder.value_range is not None):
            warn("colours are changed in 8-bit RGB images alone, not in these")
        return {
            **self.of_encoder(config, size),
            "classes": sets.names,
            "labels": json.loads(json.dumps(sets.labels.record())),
        }

    def recheck(self, config: SegmentConfig, resolved: Mapping[str, Any], source: Source) -> None:
        assert isinstance(source, MaskSource)
        scan(source.images(), resolved["in_chans"], measure=False, fixed=True)
        known = (resolved["classes"], Labels.of(resolved["labels"]))
        open_masks(
            config.data, _said(config), self.reads(config, resolved), config.test_fraction, known
        )

    def build(self, config: SegmentConfig, resolved: Mapping[str, Any]) -> Segmenter:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return Segmenter(
                **resolved["encoder"],
                classes=resolved["classes"],
                image_size=tuple(resolved["image_size"]),
                head=config.head,
                head_dim=config.head_dim,
                auxiliary=config.auxiliary,
                drop_path=config.drop_path,
                frozen=config.frozen,
                labels=resolved["labels"],
                short_side=config.short_side,
                mean=resolved["mean"],
                std=resolved["std"],
                value_range=resolved["value_range"],
                bands=resolved["bands"],
            )

    def transform(self, config: SegmentConfig, resolved: Mapping[str, Any]) -> Transform:
        height, width = resolved["image_size"]
        deep = resolved["value_range"] is not None
        fill = () if deep else tuple(round(255 * value) for value in resolved["mean"])
        return CropTransform(
            (height, width),
            config.short_side,
            config.scale,
            config.most,
            config.flip,
            config.colours,
            fill,
            config.seed,
        )

    def measured(self, job: Job, state: State) -> dict[str, Any]:
        values = measures(self._scores(job, state).confusion)
        return {f"test_{name}": values[name] for name in ("mIoU", "aAcc")}

    def _scores(self, job: Job, state: State, pictures: int = 0) -> Scores:
        assert isinstance(state.method, Segmenter)
        assert isinstance(job.held_out, MaskSource)
        test = Test(stride=job.config.stride, precision=job.resolved["precision"])
        return score(state.method, job.held_out, test, None, pictures)

    def describe(self, job: Job, method: nn.Module) -> list[tuple[str, str]]:
        config, resolved = job.config, job.resolved
        parts = [p.numel() for p in method.parameters()]
        trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
        name, (height, width) = resolved["encoder"]["encoder"], resolved["image_size"]
        which = "the head alone" if config.frozen else "everything that the head reads"
        return [
            ("", _class_line(resolved["classes"])),
            (
                "Model",
                f"{name}, {config.head} of width {config.head_dim}, crops of {height}x{width} px,"
                f" {sum(parts) / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained ({which})",
            ),
        ]

    def finish(self, job: Job, state: State, folder: RunFolder) -> dict[str, Any]:
        assert isinstance(state.method, Segmenter)
        found = self._scores(job, state, PICTURES)
        values: dict[str, Any] = measures(found.confusion)
        row = {"step": state.step, "test_mIoU": values["mIoU"], "test_aAcc": values["aAcc"]}
        folder.append("metrics.jsonl", row)
        write_report(folder.path, found, state.method, f"{folder.path} at step {state.step:,}")
        tell(values, found, state.method.classes, f", seed {job.config.seed}")
        return values | {"n": found.n, "n_train": len(job.source)}

    def next_steps(self, job: Job, folder: RunFolder) -> list[str]:
        return [
            f"openmae segment predict {folder.path} IMAGES -o masks",
            f"openmae segment evaluate {folder.path} OTHER_DATA --flip",
        ]


_NOTHING: tuple[list[str], Labels] = ([], Labels())


def _said(config: SegmentConfig) -> Said:
    return Said(config.masks, config.classes, config.palette, config.ignore_label)


def _class_line(classes: list[str]) -> str:
    more = f" ... {classes[-1]}" if len(classes) > 8 else ""
    return f"{len(classes)} classes: {', '.join(classes[:8])}{more}"
