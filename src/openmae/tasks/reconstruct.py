"""`openmae reconstruct`: what the model fills in, as a picture with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openmae.config.base import Options
from openmae.config.pictures import ReconstructConfig, patches_of
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
from openmae.models.encoder import Encoder
from openmae.randomness import Rand
from openmae.report.display import display_of
from openmae.report.hiding import hide
from openmae.report.picturegrid import animate, columns, many
from openmae.report.pictures import Reconstruction, reconstruct, sheet
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.reading import dry
from openmae.tasks.reconstructacross import across_of, columns_across, rows_of, values_of
from openmae.tasks.writing import require_folder, write_whole
from openmae.weights import Loaded, load_any
from openmae.weights.steps import Steps


def run(config: ReconstructConfig, options: Options) -> Results:
    """Write the picture, and the animation; returns the mean errors on hidden patches."""
    device = resolve_device(config.device)
    loaded, method = pictured(config.model, "reconstruct")
    path = require_folder(config.out, "give another -o")
    video = require_folder(config.video) if config.video is not None else None
    hidden = patches_of(config.hide) if config.hide else ()
    try:
        hide(method, Rand(config.seed, 0, 0.0, 0, 1), config.mask, config.mask_ratio, hidden)
    except UsageError as error:
        name = "hide" if hidden else "mask_ratio"
        raise UsageError(f"{options.spell(name)} {getattr(config, name)}: {error}") from None
    values = values_of(config, loaded, method)
    method = step_of(loaded, method, config.step)
    display_of(method.encoder, config.bands)
    images, names = images_of(config.images, method.encoder, config.max_images)
    if options.dry_run:
        return dry()
    images, method = images.to(device), method.to(device)
    rows = rows_of(config, method, images, names, config.mask_ratio, config.seed)
    found, more = columns_across(config, loaded, method, images, names, values)
    title = _title(config, loaded, method, len(set(hidden)))
    steps = across_of(config) == "steps"  # which the labels then name
    model = loaded.run.name if loaded.run is not None and steps else loaded.what
    if config.grid:
        picture = columns(found, model) if config.across else many(rows, title)
    else:
        picture = sheet(rows, title)
    write_whole(path, picture.save)
    for row in [] if values or config.grid else rows:
        say("", f"{Path(row.path).name}: {row.sentence()}")
    kind = "" if config.grid else "   original | masked | output | pasted"
    say("Out", f"{path}{kind}")
    if video is not None:
        form = {".webp": "WEBP", ".gif": "GIF"}[video.suffix]
        write_whole(video, lambda to: animate(found, model, to, form))
        say("Out", f"{video}   {len(found)} frames")
    return Results({**_means(rows), **more, "seed": config.seed}, path.parent)


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


def images_of(words: Sequence[str], encoder: Encoder, most: int) -> tuple[Tensor, list[str]]:
    """The images that words name, at the model's size; folders are thinned evenly."""
    decoding = decoding_of(encoder)
    transform = EvalTransform(encoder.image_size)
    found: list[tuple[str, Pixels]] = []
    for word in words:
        path = Path(word).expanduser()
        if path.is_file() and path.suffix.lower() not in SETS:
            found.append((word, _decode(path, decoding)))
            continue
        source = open_source(word, decoding, split="test")
        require_fit(source, encoder)
        rows = np.linspace(0, len(source) - 1, min(most, len(source))).astype(int)
        for index in sorted(set(rows.tolist())):
            try:
                found.append((source.path(index), source[index]["image"]))
            except DataError as error:
                warn(f"{source.path(index)}: {error}. Left out")
    if not found:
        raise DataError("no image could be read")
    if len(found) > most:
        warn(f"{len(found)} images given, the first {most} are shown (--max-images)")
    found = found[:most]
    return torch.stack([transform(image) for _, image in found]), [name for name, _ in found]


def _decode(path: Path, decoding: Decoding) -> Pixels:
    try:
        return decode(path, decoding)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
