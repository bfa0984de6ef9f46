"""Everything that is decided before the first step of a new run.

All checks come before the first write: a failed start leaves nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from typing import Any

import torch

from openmae.config.base import Options
from openmae.config.recipe import read_recipe
from openmae.config.training import TrainingConfig
from openmae.data.check import Scan
from openmae.data.sources import Source
from openmae.engine import checkpoint
from openmae.engine.device import resolve_device, resolve_precision
from openmae.engine.log import warn
from openmae.engine.runfolder import RunFolder, require_space
from openmae.errors import DataError, UsageError
from openmae.tasks.attention import resolve_attention
from openmae.tasks.kind import Job, Kind
from openmae.tasks.products import resolve_products

_CACHE = 256_000_000  # bytes of decoded images that may stay in memory


def prepare_new(kind: Kind, config: Any, options: Options, folder: RunFolder) -> Job:
    """Settings with their recipe, what is chosen at run time, the data and a look at them."""
    device = resolve_device(config.device)
    recipe = options.recipe
    kind.require(config, config.model_fields_set if recipe is None else options.typed)
    if recipe is None:
        recipe = kind.default_recipe(config, device.type)
        config = config.over(read_recipe(kind.task, recipe), options.spell)
    config = kind.completed(config)
    if config.steps is not None:
        config = config.model_copy(update={"epochs": None})
    source, held_out = kind.open_data(config, {})
    found = kind.look(config, source)
    if found.bad and config.bad_images == "error":
        raise DataError(f"{found.bad[0][0]}: {found.bad[0][1]}. Remove it, or --bad-images skip")
    require_tracker(config)
    resolved = _resolve(config, recipe, device, source, found) | kind.resolve(config, source, found)
    reads = kind.decoding(config, resolved)
    if reads is not None:
        source = source.decoded(reads)
        held_out = None if held_out is None else held_out.decoded(reads)
    with torch.device("meta"):
        method = kind.build(config, resolved)
    resolved["attention"] = resolve_attention(config, method, resolved)
    resolved["products"] = resolve_products(config, resolved)
    require_space(folder.path, checkpoint.bytes_needed(method, config.ema is not None), config.keep)
    return Job(config, resolved, source, held_out, found)


def lengths(config: TrainingConfig, images: int) -> tuple[int, int]:
    """Steps of the run and of its warm-up, shortened, with a notice, where it does not fit."""
    total = total_steps(config, images)
    warmup = round(config.warmup_epochs * images / config.batch_size)
    if warmup < total:
        return total, warmup
    shortened = max(1, total // 20) if total > 1 else 0
    warn(f"a warm-up of {config.warmup_epochs:g} epochs does not fit: {shortened} of {total} steps")
    return total, shortened


def require_tracker(config: TrainingConfig) -> None:
    """Raise UsageError when the tracker that is asked for is not installed."""
    if config.track and importlib.util.find_spec(config.track) is None:
        raise UsageError(f'--track {config.track}: pip install "openmae[track]"')


def _resolve(
    config: TrainingConfig, recipe: str | None, device: torch.device, source: Source, found: Scan
) -> dict[str, Any]:
    total, warmup = lengths(config, len(source))
    return {
        "recipe": recipe,
        "device": str(device),
        "precision": resolve_precision(config.precision, device),
        "threads": torch.get_num_threads(),
        "compile": config.compile,
        "micro_batch": config.micro_batch or config.batch_size,  # "auto": found before the start
        "total_steps": total,
        "warmup_steps": warmup,
        "save_every": config.save_every or max(1, total // 20),
        "cache": found.decoded_bytes <= _CACHE,
        "images": len(source),
        "data_hash": data_hash(source),
    }


def total_steps(config: TrainingConfig, images: int) -> int:
    """Optimiser steps of a run: as given, or ceil(epochs * images / batch)."""
    if config.steps is not None:
        return config.steps
    assert config.epochs is not None
    return max(1, math.ceil(config.epochs * images / config.batch_size - 1e-9))


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
