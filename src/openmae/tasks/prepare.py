"""Everything that is decided before the first step of a new run.

All checks come before the first write: a failed start leaves nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from openmae.config.base import Options
from openmae.config.pretrain import PretrainConfig, pair
from openmae.config.recipe import read_recipe
from openmae.data.check import Scan, check_size, scan
from openmae.data.sources import Source, hash_split, open_source, require_classes
from openmae.engine import checkpoint
from openmae.engine.device import resolve_device, resolve_precision
from openmae.engine.log import warn
from openmae.engine.runfolder import RunFolder, require_space
from openmae.errors import DataError, UsageError
from openmae.methods.mae import MAE

_CACHE = 256_000_000  # bytes of decoded images that may stay in memory


@dataclass
class Job:
    """A run that is ready to start: settings, what was chosen at run time, data and model."""

    config: PretrainConfig
    resolved: dict[str, Any]
    source: Source
    held_out: Source | None
    found: Scan | None
    changed: bool = False


def prepare_new(config: PretrainConfig, options: Options, folder: RunFolder) -> Job:
    """Settings with their recipe, what is chosen at run time, the data and a look at them."""
    device = resolve_device(config.device)
    whole = open_source(config.data)
    recipe = options.recipe
    if recipe is None:
        recipe = choose_recipe(config.data, device.type, len(whole))
        config = config.over(read_recipe("pretrain", recipe), options.spell)
    if config.steps is not None:
        config = config.model_copy(update={"epochs": None})
    source, held_out = open_data(config)
    found = scan(source, config.channels, measure=config.mean is None or config.std is None)
    if config.knn:
        require_classes(source, "--knn")
    if found.bad and config.bad_images == "error":
        raise DataError(f"{found.bad[0][0]}: {found.bad[0][1]}. Remove it, or --bad-images skip")
    require_tracker(config)
    check_size(found, pair(config.image_size))
    resolved = _resolve(config, recipe, device, source, found)
    with torch.device("meta"):
        method = build_method(config, resolved)
    require_space(folder.path, checkpoint.bytes_needed(method, config.ema is not None), config.keep)
    return Job(config, resolved, source, held_out, found)


def open_data(config: PretrainConfig) -> tuple[Source, Source | None]:
    """The images to train on, and those that are held out."""
    source = open_source(config.data, config.channels)
    if config.val is None:
        return source, None
    try:
        fraction = float(config.val)
    except ValueError:
        if config.val == config.data == "digits":
            return source, open_source("digits", split="test")
        return _without(source, config), open_source(config.val, config.channels)
    if not 0 < fraction < 1:
        raise UsageError(f"--val {config.val}: give a folder, or a fraction between 0 and 1")
    return hash_split(source, fraction)


def lengths(config: PretrainConfig, images: int) -> tuple[int, int]:
    """Steps of the run and of its warm-up, shortened, with a notice, where it does not fit."""
    total = total_steps(config, images)
    warmup = round(config.warmup_epochs * images / config.batch_size)
    if warmup < total:
        return total, warmup
    shortened = max(1, total // 20) if total > 1 else 0
    warn(f"a warm-up of {config.warmup_epochs:g} epochs does not fit: {shortened} of {total} steps")
    return total, shortened


def _without(source: Source, config: PretrainConfig) -> Source:
    """The training images without those of a held-out folder that lies among them."""
    root, inside = (Path(p or "").expanduser().resolve() for p in (config.data, config.val))
    if inside == root:
        raise UsageError(f"--val {config.val} is the training folder itself. Give a fraction: 0.05")
    if root not in inside.parents:
        return source
    prefix = inside.relative_to(root).as_posix() + "/"
    return source.subset([i for i in range(len(source)) if not source.path(i).startswith(prefix)])


def require_tracker(config: PretrainConfig) -> None:
    """Raise UsageError when the tracker that is asked for is not installed."""
    if config.track and importlib.util.find_spec(config.track) is None:
        raise UsageError(f'--track {config.track}: pip install "openmae[track]"')


def _resolve(
    config: PretrainConfig, recipe: str | None, device: torch.device, source: Source, found: Scan
) -> dict[str, Any]:
    total, warmup = lengths(config, len(source))
    return {
        "recipe": recipe,
        "device": str(device),
        "precision": resolve_precision(config.precision, device),
        "threads": torch.get_num_threads(),
        "compile": config.compile,
        "micro_batch": config.micro_batch or config.batch_size,
        "total_steps": total,
        "warmup_steps": warmup,
        "save_every": config.save_every or max(1, total // 20),
        "mean": list(config.mean or found.mean),
        "std": list(config.std or found.std),
        "cache": found.decoded_bytes <= _CACHE,
        "images": len(source),
        "data_hash": data_hash(source),
    }


def choose_recipe(data: str, device_type: str, images: int) -> str:
    """The recipe of a run that names none: by device and number of images."""
    if data == "digits":
        return "digits"
    if device_type != "cuda":
        return "laptop"
    return "one-gpu" if images < 200_000 else "vit-base-paper"


def total_steps(config: PretrainConfig, images: int) -> int:
    """Optimiser steps of a run: as given, or ceil(epochs * images / batch)."""
    if config.steps is not None:
        return config.steps
    assert config.epochs is not None
    return max(1, math.ceil(config.epochs * images / config.batch_size - 1e-9))


def build_method(config: PretrainConfig, resolved: dict[str, Any]) -> MAE:
    """The model of a run, with its seeded initial weights."""
    sizes = {"embed_dim": config.dim, "depth": config.depth, "num_heads": config.heads}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return MAE(
            encoder=config.model,
            image_size=pair(config.image_size),
            patch_size=None if config.patch_size is None else pair(config.patch_size),
            in_chans=config.channels,
            encoder_args={k: v for k, v in sizes.items() if v is not None},
            decoder_dim=config.decoder_dim,
            decoder_depth=config.decoder_depth,
            decoder_heads=config.decoder_heads,
            target=config.target,
            mask=config.mask,
            mask_ratio=config.mask_ratio,
            mean=resolved["mean"],
            std=resolved["std"],
        )


def data_hash(source: Source) -> str:
    """A hash of the files' paths and sizes: what a run's data are."""
    digest = hashlib.blake2b(digest_size=16)
    for line in source.listing():
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def write_listing(source: Source, folder: RunFolder) -> None:
    """Keep the list of files, so that a change of the data can be named."""
    with (folder.path / "data_files.txt").open(
        "w", encoding="utf-8", errors="surrogateescape"
    ) as file:
        file.writelines(f"{line}\n" for line in source.listing())
