"""`openmae pretrain`: a folder of images in, a run folder with an encoder out. The same command
again continues it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openmae.config.base import Options
from openmae.config.images import ImagesConfig
from openmae.config.pretrain import PretrainConfig
from openmae.config.training import pair, parse_range
from openmae.data.augmented import Augmented
from openmae.data.check import Scan, check_size, scan
from openmae.data.folder import FolderSource
from openmae.data.growing import GrowingTransform
from openmae.data.loader import Transform
from openmae.data.mixed import MixedSource, parse_mix
from openmae.data.sources import Source, hash_split, open_source, require_classes, short_name
from openmae.data.transforms import TrainTransform
from openmae.data.values import Decoding
from openmae.data.weights import weigh
from openmae.engine.device import autocast
from openmae.engine.loop import Plan, State
from openmae.engine.optim import param_groups
from openmae.engine.runfolder import Results, RunFolder, read_jsonl
from openmae.errors import UsageError
from openmae.methods.base import Base
from openmae.targets import TARGETS
from openmae.tasks.curvecheck import CurveCheck
from openmae.tasks.decoding import decoding
from openmae.tasks.evaluator import Evaluator
from openmae.tasks.kind import Job, Kind
from openmae.tasks.method import build_method, completed, require_method, views_of
from openmae.tasks.targeting import begin_target, learn_target, require_same_parts, target_parts
from openmae.tasks.training import train_run
from openmae.weights.start import start_from


def run(config: PretrainConfig, options: Options) -> Results:
    """Pretrain, or continue a run; returns the final metrics, exit code 75 after an early stop."""
    return train_run(Pretraining(), config, options)


class Pretraining(Kind):
    """A masked autoencoder, or another method, on images without labels."""

    task = "pretrain"
    settings = PretrainConfig
    architecture = ("model", "dim", "depth", "heads")

    def default_out(self, config: PretrainConfig) -> Path:
        return Path("runs") / short_name(config.data)

    def default_recipe(self, config: PretrainConfig, device_type: str) -> str:
        return choose_recipe(config.data, device_type, len(open_source(config.data)))

    def require(self, config: PretrainConfig, typed: Collection[str]) -> None:
        require_method(config, typed)

    def completed(self, config: PretrainConfig) -> PretrainConfig:
        return completed(config)

    def open_data(
        self, config: PretrainConfig, resolved: Mapping[str, Any]
    ) -> tuple[Source, Source | None]:
        return open_data(config, read_as(config, resolved))

    def look(self, config: PretrainConfig, source: Source) -> Scan:
        if config.knn:
            require_classes(source, "--knn")
        return look_at(config, source)

    def resolve(self, config: PretrainConfig, source: Source, found: Scan) -> dict[str, Any]:
        return scale_of(config, found) | {
            "predicts": config.target,
            "target_parts": target_parts(config),
        }

    def decoding(self, config: PretrainConfig, resolved: Mapping[str, Any]) -> Decoding:
        return read_as(config, resolved)

    def recheck(self, config: PretrainConfig, resolved: Mapping[str, Any], source: Source) -> None:
        require_same_parts(config, resolved)
        look_again(config, resolved, source)
        if config.knn:
            require_classes(source, "--knn")

    def build(self, config: PretrainConfig, resolved: Mapping[str, Any]) -> Base:
        return build_method(config, resolved)

    def start(self, config: PretrainConfig, method: nn.Module) -> str | None:
        assert isinstance(method, Base)
        reads = method.arguments  # mean, std and value_range among them
        lines = [start_from(method.encoder, config.init)] if config.init else []
        method.begin()
        begun = begin_target(config, method)
        lines += [begun] if begun else []
        if config.target in ("pca", "tokens"):
            source, _ = open_data(config, read_as(config, reads))
            resolved = {**reads, "total_steps": 1}
            learned = learn_target(method, source, self.transform(config, resolved), config.seed)
            lines += [learned] if learned else []
        return "\n".join(lines) or None

    def groups(self, config: PretrainConfig, method: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(method, Base)
        return param_groups(method, config.weight_decay, method.lr_scales())

    def transform(self, config: PretrainConfig, resolved: Mapping[str, Any]) -> Transform:
        views = views_of(config, resolved)
        if views is not None:
            return views
        own = TrainTransform(pair(config.image_size), config.crop, config.flip, config.seed)
        if config.augment != "crop":
            scale = {"mean": resolved["mean"], "std": resolved["std"]}
            own = Augmented(**vars(own), augment=config.augment, **scale)
        if not config.progressive:
            return own
        stages = stage_starts(config, resolved["total_steps"])
        return GrowingTransform(own, stages, config.batch_size)

    def evaluator(
        self, job: Job, folder: RunFolder, plan: Plan, device: torch.device
    ) -> Callable[[State], Mapping[str, Any]]:
        context = autocast(plan.precision, device)
        measure = Evaluator(job.source, job.held_out, job.config, folder, context, device)
        return CurveCheck(measure, job.config, job.resolved, folder)

    def describe(self, job: Job, method: nn.Module) -> list[tuple[str, str]]:
        config, resolved, found = job.config, job.resolved, job.found
        assert isinstance(method, Base)
        assert found is not None
        count = sum(p.numel() for p in method.parameters())
        height, width = pair(config.image_size)
        patch = method.encoder.patch
        how = f"method {config.method}"
        if config.method == "mae":
            decoder = f"decoder {config.decoder_depth}x{config.decoder_dim}{_variant(config)}"
            how = f"mask {config.mask_ratio:.0%} {config.mask}, {decoder}"
        return [
            ("", scale_line(config, resolved, found)),
            (
                "Model",
                f"{config.model}, {height}x{width} px, patch {patch[0]}x{patch[1]}, {how},"
                f" {count / 1e6:.1f} M parameters",
            ),
            *_grows(config, resolved["total_steps"]),
        ]

    def about(self, config: PretrainConfig, resolved: Mapping[str, Any]) -> dict[str, str]:
        told = {"target": config.target, "mask_ratio": str(config.mask_ratio)}
        if config.method != "mae":
            told = {"method": config.method}
        return told | super().about(config, resolved)

    def finish(self, job: Job, state: State, folder: RunFolder) -> dict[str, Any]:
        rows = read_jsonl(folder.metrics)
        results: dict[str, Any] = {}
        for name in ("val_loss", "knn_accuracy", "knn_majority"):
            found = [row[name] for row in rows if name in row]
            results |= {name: found[-1]} if found else {}
        return results | {"n": len(job.source)}

    def next_steps(self, job: Job, folder: RunFolder) -> list[str]:
        where, data = folder.path, job.config.data
        shows = job.config.method == "mae" and TARGETS[job.config.target].pictures
        shows = shows and not job.config.channel_groups
        return [
            *([f"openmae reconstruct {where} {data} -o reconstruction.png"] if shows else []),
            f"openmae embed {where} {data} -o features.npz",
            f"openmae probe {where} LABELLED_FOLDER   (one folder for each class)",
        ]


def look_at(config: ImagesConfig, source: Source) -> Scan:
    """A look at the images of a new run, with their mean and deviation unless both are given."""
    measure = config.mean is None or config.std is None
    given = None if config.value_range == "auto" else parse_range(config.value_range)
    found = scan(source, config.channels, measure, value_range=given)
    check_size(found, pair(config.image_size))
    return found


def scale_of(config: ImagesConfig, found: Scan) -> dict[str, Any]:
    """Mean, deviation and range of the values, as given or as found."""
    return {
        "mean": list(config.mean or found.mean),
        "std": list(config.std or found.std),
        "value_range": found.value_range and list(found.value_range),
    }


def scale_line(config: ImagesConfig, resolved: Mapping[str, Any], found: Scan) -> str:
    """The same in words."""
    mean, std = (" ".join(f"{v:.3f}" for v in resolved[k]) for k in ("mean", "std"))
    measured = "given" if config.mean else f"measured on {found.looked:,} images"
    return f"mean ({mean}), std ({std}), {measured}"


def look_again(config: ImagesConfig, resolved: Mapping[str, Any], source: Source) -> None:
    """A look at other images with which a run is to go on."""
    found = scan(source, config.channels, False, value_range=resolved.get("value_range"))
    check_size(found, pair(config.image_size))


def read_as(config: ImagesConfig, resolved: Mapping[str, Any]) -> Decoding:
    """How the values of files are read; `resolved` is empty before the data were looked at."""
    bands = tuple(band - 1 for band in config.bands)
    more = (resolved.get(name) for name in ("value_range", "mean", "std"))
    return decoding(config.channels, bands, *more)


def open_data(config: ImagesConfig, reads: Decoding) -> tuple[Source, Source | None]:
    """The images to train on, and those that are held out."""
    source, held_out = _held_out(config, reads)
    source = weigh(source, config.sampling)
    if config.mix:
        more = parse_mix(config.mix)
        shares = [1 - sum(share for _, share in more), *(share for _, share in more)]
        others = [open_source(path, reads) for path, _ in more]
        source = MixedSource([source, *others], shares)
    return source, held_out


def _held_out(config: ImagesConfig, reads: Decoding) -> tuple[Source, Source | None]:
    source = open_source(config.data, reads)
    if config.val is None:
        return source, None
    try:
        fraction = float(config.val)
    except ValueError:
        held_out = open_source(config.val, reads, split="test")
        if config.val == config.data and (
            config.val == "digits" or source.table_splits is not None
        ):
            return source, held_out
        return _without(source, config, held_out), held_out
    if not 0 < fraction < 1:
        raise UsageError(f"--val {config.val}: give a folder, or a fraction between 0 and 1")
    return hash_split(source, fraction)


def _without(source: Source, config: ImagesConfig, held_out: Source) -> Source:
    """The training images without those that are held out too, by folder, pattern or list."""
    start = getattr(source, "root", config.data)  # of a table, its folder
    root, inside = (Path(p or "").expanduser().resolve() for p in (start, config.val))
    if inside in (root, Path(config.data).expanduser().resolve()):
        raise UsageError(f"--val {config.val} is the training folder itself. Give a fraction: 0.05")
    if not isinstance(source, FolderSource) or not isinstance(held_out, FolderSource):
        return source
    aside = set(held_out.whole_paths())
    kept = [i for i, path in enumerate(source.whole_paths()) if path not in aside]
    if not kept:
        raise UsageError(f"--val {config.val} holds all training images. Give a fraction: 0.05")
    return source if len(kept) == len(source) else source.subset(kept)


def stage_starts(config: PretrainConfig, total: int) -> list[tuple[int, tuple[int, int]]]:
    """The first step of each image size (height, width) in a run of `total` steps."""
    sizes = [size for size, _ in config.stages] + [pair(config.image_size)]
    starts = [0] + [round(until * total) for _, until in config.stages]
    return list(zip(starts, sizes, strict=True))


def _grows(config: PretrainConfig, total: int) -> list[tuple[str, str]]:
    if not config.progressive:
        return []
    told = [f"{h}x{w} px from step {start:,}" for start, (h, w) in stage_starts(config, total)]
    return [("", f"progressive: {', '.join(told)}")]


def _variant(config: PretrainConfig) -> str:
    """What differs from the paper's decoder and its one mask, in words."""
    words = [" cross-attention"] if config.decoder == "cross" else []
    words += [f" {config.decoder}"] if config.decoder in ("linear", "mlp") else []
    words += [", mask tokens in the encoder"] if config.mask_tokens == "encoder" else []
    words += [" over fused blocks"] if config.decoder_fusion else []
    words += [f", predicts {config.predict:.0%} of the hidden"] if config.predict < 1 else []
    words += [f", {config.masks} masks an image"] if config.masks > 1 else []
    sizes = "+".join(str(len(own)) for own in config.groups)
    words += [f", {config.group_masks} masks of channel groups {sizes}"] if sizes else []
    return "".join(words)


def choose_recipe(data: str, device_type: str, images: int) -> str:
    """The recipe of a run that names none: by device and number of images."""
    if data == "digits":
        return "digits"
    if device_type != "cuda":
        return "laptop"
    return "one-gpu" if images < 200_000 else "vit-base-paper"
