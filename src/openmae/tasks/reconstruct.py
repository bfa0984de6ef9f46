"""`openmae reconstruct`: what the model fills in, as a picture with numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openmae.config.base import Options
from openmae.config.evaluate import ReconstructConfig, patches_of
from openmae.data.decode import decode
from openmae.data.loader import EvalBatches, loader
from openmae.data.sources import SETS, open_source
from openmae.data.transforms import EvalTransform
from openmae.data.values import Decoding, Pixels
from openmae.engine.device import resolve_device
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results
from openmae.errors import DataError, StorageError, UsageError
from openmae.methods.groupedmae import GroupedMAE
from openmae.methods.mae import MAE
from openmae.randomness import Rand
from openmae.report.display import display_of
from openmae.report.hiding import hide
from openmae.report.pictures import Reconstruction, reconstruct, sheet
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.reading import dry
from openmae.weights import Loaded, load_any
from openmae.weights.steps import Steps


def run(config: ReconstructConfig, options: Options) -> Results:
    """Write the picture; returns the mean errors on hidden patches."""
    device = resolve_device(config.device)
    loaded, method = pictured(config.model, "reconstruct")
    path = Path(config.out).expanduser()
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent} does not exist. Make it first, or give another -o")
    hidden = patches_of(config.hide) if config.hide else ()
    try:
        hide(method, Rand(config.seed, 0, 0.0, 0, 1), config.mask, config.mask_ratio, hidden)
    except UsageError as error:
        name = "hide" if hidden else "mask_ratio"
        raise UsageError(f"{options.spell(name)} {getattr(config, name)}: {error}") from None
    method = step_of(loaded, method, config.step)
    display_of(method.encoder, config.bands)
    images, names = _images(config, method)
    if options.dry_run:
        return dry()
    rand = Rand(config.seed, 0, 0.0, 0, len(images))
    rows = reconstruct(
        method.to(device),
        images.to(device),
        rand,
        names,
        cheat_scale=config.cheat_scale,
        bands=config.bands,
        **hide(method, rand, config.mask, config.mask_ratio, hidden),
    )
    _save(sheet(rows, _title(config, loaded, method, len(set(hidden)))), path)
    for row in rows:
        say("", f"{Path(row.path).name}: {row.sentence()}")
    say("Out", f"{path}   original | masked | output | pasted")
    return Results({**_means(rows), "seed": config.seed}, path.parent)


def pictured(model: str, task: str) -> tuple[Loaded, MAE]:
    """A model whose predictions are pictures, for a task that shows them.

    Raises:
        StorageError: there is no decoder.
        UsageError: it predicts something else.
    """
    loaded = load_any(model)
    _ = loaded.encoder  # a tokenizer has none, and says so
    for notice in loaded.notices:
        warn(notice)
    method = loaded.model
    if not isinstance(method, MAE):
        beside = Path(model).expanduser().parent
        run_folder = beside if (beside / "checkpoints").is_dir() else "the run folder it came from"
        raise StorageError(f"{loaded.what} has no decoder. {task} needs {run_folder}")
    if isinstance(method, GroupedMAE):
        raise UsageError(
            f"{loaded.what} has channel groups: a patch may be seen in one and hidden in another,"
            f" which is no picture that {task} knows"
        )
    if not method.pictures:
        raise UsageError(
            f"{loaded.what} predicts {method.target}, which is no picture. {task} needs a"
            " model of target pixels or norm_pixels"
        )
    return loaded, method


def step_of(loaded: Loaded, method: MAE, step: int | None) -> MAE:
    """The same at another step of its run."""
    if step is None:
        return method
    found = Steps(loaded).at(step)
    assert isinstance(found, MAE)
    return found


def _title(config: ReconstructConfig, loaded: Loaded, method: MAE, hidden: int) -> str:
    what = loaded.what if config.step is None else f"{loaded.run} at step {config.step:,}"
    if hidden:
        rows, columns = method.encoder.grid
        return f"{what}, {hidden} of {rows * columns} patches hidden by hand"
    ratio = method.mask_ratio if config.mask_ratio is None else config.mask_ratio
    mask = f" {config.mask}" if config.mask else ""
    return f"{what}, mask{mask} {ratio:.0%}, seed {config.seed}"


def errors(model: str, data: str, device_name: str = "auto", seed: int = 0) -> dict[str, Any]:
    """The errors over every image of a test set, without a picture."""
    device = resolve_device(device_name)
    method = load_any(model).model
    assert isinstance(method, MAE)
    source = open_source(data, decoding_of(method.encoder), split="test")
    batches = EvalBatches(source, EvalTransform(method.encoder.image_size), 256)
    rows: list[Reconstruction] = []
    for batch in loader(batches, range(len(batches)), 0):
        rand = Rand(seed, 0, 0.0, len(rows), len(batch["image"]))
        rows += reconstruct(method.to(device), batch["image"].to(device), rand, batch["path"])
    return _means(rows)


def _means(rows: list[Reconstruction]) -> dict[str, Any]:
    names = {
        "reconstruction_mse": "mse",
        "mean_fill_mse": "mean_fill_mse",
        "model_loss": "model_loss",
    }
    means = {key: float(np.mean([getattr(r, name) for r in rows])) for key, name in names.items()}
    physical = [r.rmse for r in rows if r.rmse is not None]
    if physical:
        means["reconstruction_rmse"], means["mean_fill_rmse"] = map(
            float, np.mean(physical, axis=0)
        )
    return {**means, "n": len(rows)}


def _save(picture: object, path: Path) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        picture.save(temporary)  # type: ignore[attr-defined]
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from None


def _images(config: ReconstructConfig, method: MAE) -> tuple[Tensor, list[str]]:
    """The images that the words name, at the model's size; folders are thinned evenly."""
    decoding = decoding_of(method.encoder)
    transform = EvalTransform(method.encoder.image_size)
    found: list[tuple[str, Pixels]] = []
    for word in config.images:
        path = Path(word).expanduser()
        if path.is_file() and path.suffix.lower() not in SETS:
            found.append((word, _decode(path, decoding)))
            continue
        source = open_source(word, decoding, split="test")
        require_fit(source, method.encoder)
        rows = np.linspace(0, len(source) - 1, min(config.max_images, len(source))).astype(int)
        for index in sorted(set(rows.tolist())):
            try:
                found.append((source.path(index), source[index]["image"]))
            except DataError as error:
                warn(f"{source.path(index)}: {error}. Left out")
    if not found:
        raise DataError("no image could be read")
    if len(found) > config.max_images:
        warn(f"{len(found)} images given, the first {config.max_images} are shown (--max-images)")
    found = found[: config.max_images]
    return torch.stack([transform(image) for _, image in found]), [name for name, _ in found]


def _decode(path: Path, decoding: Decoding) -> Pixels:
    try:
        return decode(path, decoding)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
