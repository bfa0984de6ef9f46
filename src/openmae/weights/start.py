"""Start an encoder from other weights: another run, any checkpoint of the family, a timm name."""

from __future__ import annotations

import torch
from torch import Tensor

from openmae.errors import UsageError
from openmae.models.encoder import Encoder
from openmae.models.groups import group_table, resize_groups, told
from openmae.weights.load import load_any

_FRESH = ("fc_norm.", "head.", "head_drop.")  # of a classifier: never copied


def start_from(encoder: Encoder, source: str, keep_sincos: bool = True) -> str:
    """Copy the encoder weights of `source` into `encoder`; returns what was loaded.

    Positions are copied, resized in two dimensions for another grid, and the text says so. With
    `keep_sincos` (pretraining) a source whose table is the frozen sin-cos one leaves the encoder
    its own. A head, and a final norm that `encoder` does not have, are left out.

    Raises:
        UsageError: another architecture, patch size or number of channels.
    """
    loaded = load_any(source)
    other = loaded.encoder
    _require_fit(encoder, other, source)
    theirs, own = other.vit.state_dict(), encoder.vit.state_dict()
    text = loaded.what
    table, prefix = theirs["pos_embed"], encoder.num_prefix_rows
    if keep_sincos and _is_sincos(table, other):
        table = own["pos_embed"]
    elif other.grid != encoder.grid:
        count = len(encoder.groups)
        table = resize_groups(table, other.grid, encoder.grid, prefix, count)
        (a, b), (c, d) = other.grid, encoder.grid
        text += f"\nPosition table {a}x{b} resized to {c}x{d} (bicubic)"
    copied = {n: t for n, t in theirs.items() if n in own and not n.startswith(_FRESH)}
    with torch.no_grad():
        encoder.vit.load_state_dict(own | copied | {"pos_embed": table})
    return text


def _is_sincos(table: Tensor, encoder: Encoder) -> bool:
    rows, count = encoder.num_prefix_rows, len(encoder.groups)
    made = group_table(table.shape[2], encoder.grid, rows, count)
    return bool(torch.allclose(table[0].float(), made.float(), atol=1e-5))


def _require_fit(encoder: Encoder, other: Encoder, source: str) -> None:
    theirs, own = other.vit.state_dict(), encoder.vit.state_dict()
    if other.in_chans != encoder.in_chans:
        raise UsageError(
            f"{source} reads {other.in_chans} channels, this run {encoder.in_chans}. Use --channels"
            f" {other.in_chans}"
        )
    if other.patch != encoder.patch:
        p, q = other.patch
        raise UsageError(
            f"{source} has patches of {p}x{q}, this run {encoder.patch[0]}x{encoder.patch[1]}. Use"
            f" --patch-size {p if p == q else f'{p} {q}'}"
        )
    if other.groups != encoder.groups:
        raise UsageError(
            f"{source} has channel groups {told(other.groups)}, this run {told(encoder.groups)}."
            f" Use --channel-groups {told(other.groups)}, or leave --init out"
        )
    odd = [
        name
        for name, tensor in own.items()
        if name != "pos_embed"
        and not name.startswith((*_FRESH, "norm."))
        and (name not in theirs or theirs[name].shape != tensor.shape)
    ]
    more = {n for n in theirs if n.startswith("blocks.")} - own.keys()
    heads = [e.vit.blocks[0].attn.num_heads for e in (other, encoder)]
    rows = [e.num_prefix_rows for e in (other, encoder)]
    if not (odd or more or heads[0] != heads[1] or rows[0] != rows[1]):
        return
    first = (
        odd[0] if odd else "more blocks" if more else "heads" if heads[0] != heads[1] else "tokens"
    )
    width, depth = other.vit.embed_dim, len(other.vit.blocks)
    raise UsageError(
        f"{source} is {other.create['model_name']} and does not fit"
        f" {encoder.create['model_name']} (first difference: {first}).\nTo continue it: --dim"
        f" {width} --depth {depth} --heads {heads[0]}, and --model if it has other tokens"
    )
