"""Attention maps as a picture: the image, the mean of the heads, and each head.

L patches of a grid of R rows and C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from openmae.report.explorerpictures import colours
from openmae.report.picturestyle import GAP, LINE, SOFT, TEXT, canvas_of, font, short_path, wide

_SIDE = 144  # pixels, about, of a map
_ACROSS = 8  # heads in a row


@dataclass(frozen=True)
class AttentionMap:
    """Of one image: how it is shown (H, W, 3), weights of the patches (heads, R, C), and what goes
    to class and register tokens instead, a number a head.
    """

    path: str
    image: NDArray[np.uint8]
    heads: NDArray[np.float32]
    prefix: NDArray[np.float32]

    def sentence(self) -> str:
        """How far it spreads: exp of the entropy of the mean over heads, as a share of the patches;
        and what does not go to patches.
        """
        spread = effective(self.heads.mean(axis=0))
        words = f"mean of {len(self.heads)} heads spreads over {spread:.0%} of the patches"
        if self.prefix.any():
            words += f"; {self.prefix.mean():.0%} goes to class or register tokens"
        return words


def effective(weights: NDArray[np.float32]) -> float:
    """exp(entropy) of weights, as a share of their number: 1 looks at all alike."""
    p = weights.astype(np.float64).ravel()
    p = p / max(p.sum(), 1e-300)
    return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()) / p.size)


def attention_sheet(
    rows: Sequence[AttentionMap], title: str, patch: tuple[int, int] | None
) -> Image.Image:
    """A row for each image. Each map goes from 0 (black) to its own largest weight (light yellow),
    which stands above it; `patch` is the one that looks, if it is one.
    """
    height, width = rows[0].image.shape[:2]
    scale = _SIDE / max(height, width)
    tile = (max(1, round(width * scale)), max(1, round(height * scale)))
    count = len(rows[0].heads)
    across = min(_ACROSS, count)
    lines = -(-count // across)
    cell_w, cell_h = max(tile[0], 84) + GAP, tile[1] + LINE + GAP
    row_h = lines * cell_h + LINE + GAP
    even = 1 / rows[0].heads[0].size
    notes = [title, "each map from 0 (black) to its own largest weight (light yellow), above it;"]
    notes[1] += f" {even:.2g} is an equal look at all patches"
    texts = [f"{short_path(row.path, 60)}: {row.sentence()}" for row in rows]
    width = max((across + 2) * cell_w - GAP, *(wide(text) for text in texts))
    canvas, top = canvas_of(notes, width, len(rows) * row_h - GAP)
    draw = ImageDraw.Draw(canvas)
    for number, (row, words) in enumerate(zip(rows, texts, strict=True)):
        y = top + number * row_h
        draw.text((GAP, y), words, fill=TEXT, font=font())
        y += LINE
        maps = [("mean", row.heads.mean(axis=0))]
        maps += [(f"head {i + 1}", head) for i, head in enumerate(row.heads)]
        draw.text((GAP, y), "image", fill=SOFT, font=font())
        canvas.paste(Image.fromarray(row.image).resize(tile, _way(scale)), (GAP, y + LINE))
        _outline(draw, (GAP, y + LINE), tile, row.heads.shape[1:], patch)
        for i, (name, weights) in enumerate(maps):
            place = i + 1 if i <= across else (i - 1) % across + 2
            at = (GAP + place * cell_w, y + max(0, (i - 1) // across) * cell_h)
            draw.text(at, f"{name} {weights.max():.2g}", fill=SOFT, font=font())
            shown = colours(weights / max(float(weights.max()), 1e-12))
            picture = Image.fromarray(shown).resize(tile, Image.Resampling.NEAREST)
            canvas.paste(picture, (at[0], at[1] + LINE))
            _outline(draw, (at[0], at[1] + LINE), tile, weights.shape, patch)
    return canvas


def _way(scale: float) -> Image.Resampling:
    return Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS


def _outline(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    tile: tuple[int, int],
    grid: tuple[int, ...],
    patch: tuple[int, int] | None,
) -> None:
    """A frame around the patch that looks, white within black, seen on every ground."""
    if patch is None:
        return
    high, wide = tile[1] / grid[0], tile[0] / grid[1]
    left, top = at[0] + patch[1] * wide, at[1] + patch[0] * high
    box = (round(left), round(top), round(left + wide) - 1, round(top + high) - 1)
    outer = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
    draw.rectangle(outer, outline="black")
    draw.rectangle(box, outline="white")
