"""Everything that is decided before the first step of pretraining, and compared when a run is
continued.

All checks come before the first write: a failed start leaves nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import torch

from openmae.config.base import Options, extra_of, shown
from openmae.config.pretrain import PretrainConfig, pair
from openmae.config.recipe import read_recipe
from openmae.data.check import Scan, check_size, scan
from openmae.data.sources import Source, hash_split, open_source, require_classes
from openmae.engine import checkpoint
from openmae.engine.device import environment, resolve_device, resolve_precision
from openmae.engine.log import warn
from openmae.engine.runfolder import RunFolder, require_space
from openmae.errors import DataError, StorageError, UsageError
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


def prepare_new(config: PretrainConfig, options: Options, folder: RunFolder) -> Job:
    """Settings with their recipe, what is chosen at run time, the data and a look at them."""
    device = resolve_device(config.device)
    whole = open_source(config.data)
    recipe = options.recipe
    if recipe is None:
        recipe = choose_recipe(config.data, device.type, len(whole))
        config = config.over(read_recipe("pretrain", recipe), options.spell)
    source, held_out = _open(config)
    found = scan(source, config.channels, measure=config.mean is None or config.std is None)
    if config.knn:
        require_classes(source, "--knn")
    check_size(found, pair(config.image_size))
    resolved = _resolve(config, recipe, device, source, found)
    with torch.device("meta"):
        method = build_method(config, resolved)
    require_space(folder.path, checkpoint.bytes_needed(method, config.ema is not None), config.keep)
    return Job(config, resolved, source, held_out, found)


def _open(config: PretrainConfig) -> tuple[Source, Source | None]:
    source = open_source(config.data, config.channels)
    if config.val is None:
        return source, None
    try:
        fraction = float(config.val)
    except ValueError:
        if config.val == config.data == "digits":
            return source, open_source("digits", split="test")
        return source, open_source(config.val, config.channels)
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


def differences(
    config: PretrainConfig, options: Options, folder: RunFolder
) -> tuple[PretrainConfig, dict[str, Any], dict[str, Any]]:
    """The run's own settings with the changes that are allowed, those changes, and `resolved`.

    Only what was typed now (or stands in the recipe that was typed) is compared; the rest is the
    run's.

    Raises:
        UsageError: a setting differs and was not allowed to.
        StorageError: another architecture.
    """
    saved = folder.read_config()
    resolved = saved.pop("resolved")
    saved.pop("task", None)
    before = PretrainConfig.model_validate(saved)
    changes = _changes(config, before, options, folder)
    now = before.model_copy(update=changes)
    for name, problem in now.problems():
        raise UsageError(f"{options.spell(name)} {shown(getattr(now, name))}{problem}")
    return now, changes, resolved


def prepare_resume(config: PretrainConfig, options: Options, folder: RunFolder) -> Job:
    """A run as it is to go on: its settings, its data checked to be the same.

    Raises:
        UsageError, StorageError: as `differences`.
        DataError: the images differ.
    """
    now, changes, resolved = differences(config, options, folder)
    where = config.data if "data" in config.model_fields_set else now.data
    now = now.model_copy(update={"data": where})
    source, held_out = _open(now)
    found_hash = data_hash(source)
    same_data = found_hash == resolved["data_hash"]
    if not same_data and "data" not in options.allow_change:
        raise DataError(_data_difference(source, folder))
    device = resolve_device(now.device if "device" in changes else resolved["device"])
    fresh: dict[str, Any] = {"device": str(device), "data_hash": found_hash, "images": len(source)}
    if set(changes) & {"epochs", "steps", "batch_size", "warmup_epochs"} or not same_data:
        total, warmup = lengths(now, len(source))
        fresh |= {"total_steps": total, "warmup_steps": warmup}
    if set(changes) & {"micro_batch", "batch_size"}:
        fresh["micro_batch"] = now.micro_batch or now.batch_size
    if set(changes) & {"precision", "device"}:
        fresh["precision"] = resolve_precision(now.precision, device)
    fresh |= {n: changes[n] for n in ("compile", "save_every") if changes.get(n) is not None}
    if changes or not same_data:
        resolved |= fresh
        folder.write_config("pretrain", now.model_dump(mode="json"), resolved)
        write_listing(source, folder)
    _other_machine(folder, device)
    return Job(now, resolved, source, held_out, None)


def write_listing(source: Source, folder: RunFolder) -> None:
    """Keep the list of files, so that a change of the data can be named."""
    with (folder.path / "data_files.txt").open(
        "w", encoding="utf-8", errors="surrogateescape"
    ) as file:
        file.writelines(f"{line}\n" for line in source.listing())


def _changes(
    config: PretrainConfig, before: PretrainConfig, options: Options, folder: RunFolder
) -> dict[str, Any]:
    """Settings that differ from the run's and may, by name.

    Raises:
        UsageError, StorageError: one that may not.
    """
    changes: dict[str, Any] = {}
    for name in sorted(config.model_fields_set):
        new, old = getattr(config, name), getattr(before, name)
        if new == old or name in ("data", "out"):  # data are compared by their files
            continue
        if name in ("model", "dim", "depth", "heads"):
            raise StorageError(
                f"{folder.path} is {shown(old) or 'another size'} ({name}), asked for {shown(new)}."
                f" Use {options.spell(name)} {shown(old)}, or another --out"
            )
        kind = extra_of(PretrainConfig, name)["change"]
        if kind == "free" or (kind == "allow" and name in options.allow_change):
            changes[name] = new
            continue
        allow = f"--allow-change {name}, or " if kind == "allow" else ""
        raise UsageError(
            f"{options.spell(name)} {shown(old)} -> {shown(new)} differs from the run"
            f" {folder.path}. Drop it, or {allow}--out runs/new"
        )
    for group in (
        PretrainConfig.one_of
    ):  # a length given in steps replaces one in epochs, and the other way round
        if changes.keys() & set(group):
            changes |= {other: None for other in group if other not in changes}
    return changes


def _data_difference(source: Source, folder: RunFolder) -> str:
    path = folder.path / "data_files.txt"
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        text = ""
    before, now = set(text.splitlines()), set(source.listing())
    change = f"+{len(now - before)} -{len(before - now)}"
    return (
        f"{source.name} has {len(now):,} images, the run began with {len(before):,} ({change}). "
        "--allow-change data, or the folder as it was"
    )


def _other_machine(folder: RunFolder, device: torch.device) -> None:
    """Say so when versions or device differ: the run then continues within tolerance, not to the
    bit.
    """
    path = folder.path / "environment.json"
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    now = environment(device)
    differ = [
        f"{k} {before['versions'].get(k)} -> {v}"
        for k, v in now["versions"].items()
        if before["versions"].get(k) != v
    ]
    differ += [
        f"{k} {before.get(k)} -> {now.get(k)}"
        for k in ("device", "cpu", "gpu")
        if before.get(k) != now.get(k)
    ]
    if differ:
        warn(f"continues within tolerance, not to the bit: {', '.join(differ)}")
