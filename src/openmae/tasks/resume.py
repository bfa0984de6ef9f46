"""A run that goes on: its own settings, with the changes that are allowed, on the same data."""

from __future__ import annotations

import json
from typing import Any

import torch

from openmae.config.base import Options, extra_of, shown
from openmae.data.sources import Source
from openmae.engine.device import environment, resolve_device, resolve_precision
from openmae.engine.distributed import own_device
from openmae.engine.log import warn
from openmae.engine.runfolder import RunFolder
from openmae.errors import DataError, StorageError, UsageError
from openmae.tasks import rollback
from openmae.tasks.attention import resolve_attention
from openmae.tasks.kind import Job, Kind
from openmae.tasks.prepare import data_hash, lengths, require_tracker
from openmae.tasks.products import resolve_products


def differences(
    kind: Kind, config: Any, options: Options, folder: RunFolder
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
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
    before = kind.settings.model_validate(saved)
    changes = _changes(kind, config, before, resolved, options, folder)
    now = before.model_copy(update=changes | {"data": config.data})
    for name, problem in now.problems():
        raise UsageError(f"{options.spell(name)} {shown(getattr(now, name))}{problem}")
    return now, changes, resolved


def prepare_resume(kind: Kind, config: Any, options: Options, folder: RunFolder) -> Job:
    """A run as it is to go on: its settings, its data checked to be the same.

    Raises:
        UsageError, StorageError: as `differences`.
        DataError: the images differ.
    """
    now, changes, resolved = differences(kind, config, options, folder)
    source, held_out = kind.open_data(now, resolved)
    other_draws = bool(set(changes) & {"sampling", "mix"})  # their weights are part of the data
    same_data = require_same_data(source, resolved, options, folder, other_draws)
    device = resolve_device(now.device if "device" in changes else own_device(resolved["device"]))
    fresh: dict[str, Any] = {"device": str(device), "images": len(source)}
    if not same_data:  # else the run's own hash stands: no second look at every file
        fresh["data_hash"] = data_hash(source)
    if set(changes) & {"epochs", "steps", "batch_size", "warmup_epochs"} or not same_data:
        total, warmup = lengths(now, len(source))
        fresh |= {"total_steps": total, "warmup_steps": warmup}
    if set(changes) & {"micro_batch", "batch_size"}:
        fresh["micro_batch"] = now.micro_batch or now.batch_size
    if set(changes) & {"precision", "device"}:
        fresh["precision"] = resolve_precision(now.precision, device)
    fresh |= {n: changes[n] for n in ("compile", "save_every") if changes.get(n) is not None}
    changed = bool(changes) or not same_data
    if changed:
        resolved |= fresh
        rollback.changed(resolved, changes, same_data)
        if set(changes) & {"attention", "precision", "device"}:
            with torch.device("meta"):
                method = kind.build(now, resolved)
            resolved["attention"] = resolve_attention(now, method, resolved)
        if set(changes) & {"products", "precision", "device"}:
            resolved["products"] = resolve_products(now, resolved)
        kind.recheck(now, resolved, source)
    require_tracker(now)
    _other_machine(folder, device, now.deterministic)
    return Job(now, resolved, source, held_out, None, changed)


def require_same_data(
    source: Source,
    resolved: dict[str, Any],
    options: Options,
    folder: RunFolder,
    allowed: bool = False,
) -> bool:
    """Whether the data are those of the run; DataError if not, unless that was allowed."""
    same = data_hash(source) == resolved["data_hash"]
    if not same and not allowed and "data" not in options.allow_change:
        raise DataError(_data_difference(source, folder, resolved["images"]))
    return same


def _changes(
    kind: Kind,
    config: Any,
    before: Any,
    resolved: dict[str, Any],
    options: Options,
    folder: RunFolder,
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
        if name in ("device", "precision") and new == resolved[name]:  # what "auto" meant
            continue
        if name in kind.architecture and old is None:
            raise StorageError(
                f"{folder.path} was begun without {options.spell(name)}, asked for {shown(new)}."
                " Drop it, or give another --out"
            )
        if name in kind.architecture:
            raise StorageError(
                f"{folder.path} is {shown(old) or 'another size'} ({name}), asked for {shown(new)}."
                f" Use {options.spell(name)} {shown(old)}, or another --out"
            )
        change = extra_of(kind.settings, name)["change"]
        if change == "free" or (change == "allow" and name in options.allow_change):
            changes[name] = new
            continue
        allow = f"--allow-change {name}, or " if change == "allow" else ""
        raise UsageError(
            f"{options.spell(name)} {shown(old)} -> {shown(new)} differs from the run"
            f" {folder.path}. Drop it, or {allow}--out runs/new"
        )
    for group in (
        kind.settings.one_of
    ):  # a length given in steps replaces one in epochs, and the other way round
        if changes.keys() & set(group):
            changes |= {other: None for other in group if other not in changes}
    return changes


def _data_difference(source: Source, folder: RunFolder, images: int) -> str:
    path = folder.path / "data_files.txt"
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        text = ""
    before, now = set(text.splitlines()), set(source.listing())
    change = f"+{len(now - before)} -{len(before - now)}"
    return (
        f"{source.name} has {len(source):,} images, the run began with {images:,} ({change}). "
        "--allow-change data, or the folder as it was"
    )


def _other_machine(folder: RunFolder, device: torch.device, deterministic: bool) -> None:
    """Say so when a run will continue within tolerance and not to the bit."""
    try:
        before = json.loads((folder.path / "environment.json").read_text(encoding="utf-8"))
        versions = dict(before["versions"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    now = environment(device)
    pairs = [(k, versions.get(k), v) for k, v in now["versions"].items()]
    pairs += [(k, before.get(k), now.get(k)) for k in ("device", "cpu", "gpu")]
    differ = [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]
    if device.type == "cuda" and not deterministic:
        differ.append("GPU kernels without --deterministic")
    if differ:
        warn(f"continues within tolerance, not to the bit: {', '.join(differ)}")
