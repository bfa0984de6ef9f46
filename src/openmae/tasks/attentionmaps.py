"""`openmae attention`: where a patch, or the class token, looks."""

from __future__ import annotations

import numpy as np

from openmae.config.base import Options
from openmae.config.pictures import AttentionConfig
from openmae.engine.device import resolve_device
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results
from openmae.errors import DataError, UsageError
from openmae.models.attentionmap import attention_of
from openmae.models.encoder import Encoder
from openmae.report.attentionpictures import AttentionMap, attention_sheet, effective
from openmae.report.display import display_of, to_rgb
from openmae.tasks.reading import dry
from openmae.tasks.reconstruct import images_of
from openmae.tasks.writing import require_folder, write_whole
from openmae.weights import load_any


def run(config: AttentionConfig, options: Options) -> Results:
    """Write the picture; returns how far the attention spreads, a mean over images."""
    device = resolve_device(config.device)
    path = require_folder(config.out, "give another -o")
    loaded = load_any(config.model)
    encoder = loaded.encoder
    for notice in loaded.notices:
        warn(notice)
    patch = _patch(config, encoder)
    display = display_of(encoder, config.bands)
    images, names = images_of(config.images, encoder, config.max_images)
    if options.dry_run:
        return dry()
    encoder = encoder.to(device).eval()
    columns = encoder.grid[1]
    index = None if patch is None else patch[0] * columns + patch[1]
    weights, prefix = attention_of(encoder, images.to(device), index, config.layer)
    heads = weights.unflatten(-1, encoder.grid).float().cpu().numpy()
    pixels = encoder.normalize(images.to(device)) * encoder.std + encoder.mean
    unit = pixels.float().cpu().numpy()
    rows = [
        AttentionMap(
            name,
            to_rgb(unit[i], 1.0, display.bands, display.window(unit[i])),
            heads[i],
            prefix[i].float().cpu().numpy(),
        )
        for i, name in enumerate(names)
    ]
    block = config.layer or len(encoder.vit.blocks)
    who = "the class token" if patch is None else f"patch {patch[0]},{patch[1]}"
    title = f"{loaded.what}, block {block}, {who}{display.title()}"
    write_whole(path, attention_sheet(rows, title, patch).save)
    for row in rows:
        say("", f"{row.path}: {row.sentence()}")
    say("Out", f"{path}   image | mean | {heads.shape[1]} heads")
    spread = [effective(row.heads.mean(axis=0)) for row in rows]
    values = {"spread": float(np.mean(spread)), "prefix_share": float(prefix.mean())}
    return Results({**values, "n": len(rows)}, path.parent)


def _patch(config: AttentionConfig, encoder: Encoder) -> tuple[int, int] | None:
    """Row and column of the patch that looks; None for the class token.

    Raises:
        UsageError: there is no such patch or block, or the encoder's attention is of another kind.
        DataError: the encoder has no class token.
    """
    blocks = encoder.vit.blocks
    if config.layer is not None and config.layer > len(blocks):
        raise UsageError(f"--layer {config.layer}: this encoder has blocks 1 to {len(blocks)}")
    if not hasattr(blocks[0].attn, "qkv") or len(encoder.groups) > 1:
        raise UsageError(
            "attention is shown of encoders with one token a patch and plain attention (timm's"
            " ViT), and this is another"
        )
    rows, columns = encoder.grid
    if config.patch is None:
        return rows // 2, columns // 2
    if config.patch == "cls":
        if encoder.vit.cls_token is None:
            raise DataError("this encoder has no class token. Use --patch row,column")
        return None
    row, column = map(int, config.patch.split(","))
    if row >= rows or column >= columns:
        raise UsageError(
            f"--patch {config.patch}: there are rows 0 to {rows - 1}, columns 0 to {columns - 1}"
        )
    return row, column
