"""`openmae finetune`: a classifier from a pretrained encoder, by the paper's recipe (Table 9). The
same loop, and the same exact resume, as pretraining.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from openmae.config.base import Options
from openmae.config.finetune import FinetuneConfig, crop_share, parse_fraction
from openmae.data.augment import AugmentTransform
from openmae.data.check import Scan, scan
from openmae.data.labels import open_labelled_split
from openmae.data.loader import Transform
from openmae.data.sources import Source, open_split, require_classes
from openmae.data.subset import few_shot
from openmae.data.transforms import TrainTransform
from openmae.data.values import Decoding
from openmae.data.weights import weigh
from openmae.engine.log import say
from openmae.engine.loop import State
from openmae.engine.runfolder import Results, RunFolder
from openmae.errors import DataError, UsageError
from openmae.methods.classify import Classifier
from openmae.tasks.arguments import require_order, require_two
from openmae.tasks.baselines import RANDOM_WEIGHTS, train_with_baselines
from openmae.tasks.classification import metrics, predict, tell, write_report
from openmae.tasks.fromencoder import FromEncoder
from openmae.tasks.kind import Job


def run(config: FinetuneConfig, options: Options) -> Results:
    """Fine-tune, or continue a run; with `baseline`, then the same recipe from random weights."""
    require_order(config.model, config.data)
    measures = ("accuracy", "mAP")
    results = train_with_baselines(Finetuning, config, options, [RANDOM_WEIGHTS], measures)
    for name in measures:
        if f"random_weights_{name}" in results:
            own, value = results[name], results[f"random_weights_{name}"]
            say("Compare", f"pretrained {own:.1%}, random weights {value:.1%} ({own - value:+.1%})")
    return results


class Finetuning(FromEncoder):
    """A classifier on labelled images."""

    task = "finetune"
    settings = FinetuneConfig
    architecture = ("model", "random_weights", "pool", "image_size", "blocks")

    def default_recipe(self, config: FinetuneConfig, device_type: str) -> str:
        if config.data == "digits":
            return "digits"
        source, _ = self._split(config, None)
        if device_type != "cuda" or len(source) < 50_000:
            return "small"
        depth = len(self.loaded(config).encoder.vit.blocks)
        size = "base" if depth <= 12 else "large" if depth <= 24 else "huge"
        return f"scratch-vit-{size}-paper" if config.random_weights else f"vit-{size}-paper"

    def open_data(
        self, config: FinetuneConfig, resolved: Mapping[str, Any]
    ) -> tuple[Source, Source | None]:
        source, held_out = self._split(config, self.reads(config, resolved))
        require_classes(source, "finetune")
        if config.fraction is not None:
            source = few_shot(source, *parse_fraction(config.fraction), seed=config.seed)
        require_two(source, self.task)
        source = weigh(source, config.sampling)
        if resolved and source.classes != resolved["classes"]:
            require_classes_of(resolved["classes"], source)
        return source, held_out

    def _split(self, config: FinetuneConfig, reads: Decoding | None) -> tuple[Source, Source]:
        if config.labels is not None:
            share, many = config.test_fraction, config.multi_label
            return open_labelled_split(config.data, config.labels, reads, share, many)
        return open_split(config.data, reads, config.test_fraction, self.task)

    def look(self, config: FinetuneConfig, source: Source) -> Scan:
        return scan(source, self.loaded(config).encoder.in_chans, measure=False, fixed=True)

    def resolve(self, config: FinetuneConfig, source: Source, found: Scan) -> dict[str, Any]:
        encoder = self.loaded(config).encoder
        size = self.size(config)
        if encoder.value_range is not None and config.randaug is not None:
            raise UsageError("RandAugment works on 8-bit images, these are not: --randaug none")
        weights = balanced(source) if config.class_weights == "balanced" else None
        return {
            **self.of_encoder(config, size),
            "classes": source.classes,
            "class_weights": weights,
            "crop_pct": crop_share(config.crop_pct, size),
        }

    def recheck(self, config: FinetuneConfig, resolved: Mapping[str, Any], source: Source) -> None:
        scan(source, resolved["in_chans"], measure=False, fixed=True)

    def build(self, config: FinetuneConfig, resolved: Mapping[str, Any]) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return Classifier(
                **resolved["encoder"],
                classes=resolved["classes"],
                image_size=tuple(resolved["image_size"]),
                pool=config.pool,
                drop_path=config.drop_path,
                blocks=config.blocks,
                smoothing=config.smoothing,
                mixup=config.mixup,
                cutmix=config.cutmix,
                mix_prob=config.mix_prob,
                class_weights=resolved["class_weights"],
                multi_label=config.multi_label,
                mean=resolved["mean"],
                std=resolved["std"],
                value_range=resolved.get("value_range"),
                bands=resolved.get("bands", ()),
            )

    def transform(self, config: FinetuneConfig, resolved: Mapping[str, Any]) -> Transform:
        height, width = resolved["image_size"]
        train = TrainTransform((height, width), config.crop, config.flip, config.seed)
        mean, std = resolved["mean"], resolved["std"]
        return AugmentTransform(train, config.randaug, config.erasing, mean, std)

    def measured(self, job: Job, state: State) -> dict[str, Any]:
        found = self._test(job, state)
        main = "mAP" if job.config.multi_label else "accuracy"
        return {f"test_{main}": found[main], "test_loss": found["loss"]}

    def _test(self, job: Job, state: State, folder: Path | None = None) -> dict[str, Any]:
        config, resolved, source = job.config, job.resolved, job.held_out
        assert source is not None
        assert isinstance(state.method, Classifier)
        device, batch = torch.device(resolved["device"]), min(256, config.batch_size)
        workers, precision = config.workers or 0, resolved["precision"]
        share = resolved["crop_pct"]
        found = predict(state.method, source, share, batch, workers, device, precision)
        classes = resolved["classes"]
        values = metrics(found, job.source.labels, config.multi_label)
        if folder is not None:
            write_report(folder, found, classes, config.multi_label)
            tell(values, found, classes, config.seed, config.multi_label)
        return values

    def describe(self, job: Job, method: nn.Module) -> list[tuple[str, str]]:
        config, resolved = job.config, job.resolved
        count = sum(p.numel() for p in method.parameters())
        trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
        name, (height, width) = resolved["encoder"]["encoder"], resolved["image_size"]
        which = "all blocks" if config.blocks is None else f"the last {config.blocks:g} blocks"
        few = f", --fraction {config.fraction}" if config.fraction else ""
        return [
            ("", f"{len(resolved['classes'])} classes{few}"),
            (
                "Model",
                f"{name}, {height}x{width} px, {config.pool} pool, {count / 1e6:.1f} M parameters,"
                f" {trained / 1e6:.1f} M trained ({which})",
            ),
        ]

    def finish(self, job: Job, state: State, folder: RunFolder) -> dict[str, Any]:
        values = self._test(job, state, folder.path)
        main = "mAP" if job.config.multi_label else "accuracy"
        row = {"step": state.step, f"test_{main}": values[main], "test_loss": values["loss"]}
        folder.append("metrics.jsonl", row)
        test_loss = values.pop("loss")  # "loss" is the training loss, as in every run
        return values | {"test_loss": test_loss, "n_train": len(job.source)}

    def next_steps(self, job: Job, folder: RunFolder) -> list[str]:
        return [
            f"openmae predict {folder.path} IMAGES -o predictions.csv",
            f"openmae evaluate {folder.path} LABELLED_FOLDER",
        ]


def require_classes_of(classes: list[str], source: Source) -> None:
    """Raise DataError: a continued run keeps its classes."""
    odd = sorted(set(classes) ^ set(source.classes))[:3]
    raise DataError(
        f"{source.name} has {len(source.classes)} classes, the run began with {len(classes)}"
        f" (differ: {', '.join(odd) or 'their order'}). Give the folder as it was, or another --out"
    )


def balanced(source: Source) -> list[float]:
    """N / (K n_c) for each class: rare classes weigh more, and the mean over the images is 1, or
    over all labels of all images where there are several.
    """
    labels, classes = np.asarray(source.labels), len(source.classes)
    counts = np.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(0)
    present = max(int((counts > 0).sum()), 1)
    weights = np.where(counts > 0, counts.sum() / (present * np.maximum(counts, 1)), 1.0)
    return [float(w) for w in weights]
