"""Reconstruction pictures: original, masked, output, pasted; with the error beside a mean fill, and
what they leak.

B batch, C channels, L patches, W = p*q*C values of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from openmae.methods.mae import MAE, Randomness
from openmae.models.patches import patch_statistics, patchify, unpatchify
from openmae.report.display import Display, display_of, gain_of, to_rgb
from openmae.report.picturestyle import (
    BAD,
    GAP,
    LINE,
    SOFT,
    TEXT,
    canvas_of,
    font,
    short_path,
    wide,
)

HEADS = ("original", "masked", "output", "pasted")
LEAK = "LEAKS: scale taken from the hidden patches' true mean and variance"
_FAIR = "scale from visible patches only"


@dataclass(frozen=True)
class Reconstruction:
    """One image: its four pictures (C, H, W) on the unit scale, and errors on the hidden patches in
    the same units; `display` says which bands are shown, and the values of the scale.
    """

    path: str
    pictures: tuple[NDArray[np.float32], ...]
    mse: float
    mean_fill_mse: float
    model_loss: float
    note: str
    display: Display | None = None

    @property
    def rmse(self) -> tuple[float, float] | None:
        """Root mean square errors of the model and of the mean fill in the values of the file;
        None for 8-bit images.
        """
        if self.display is None or self.display.value_range is None:
            return None
        low, high = self.display.value_range
        return self.mse**0.5 * (high - low), self.mean_fill_mse**0.5 * (high - low)

    @property
    def better(self) -> float:
        """By which share the error is below that of the mean fill: of the two errors that are
        shown, RMSE in the values of the file where there are such, MSE otherwise.
        """
        own, fill = self.rmse or (self.mse, self.mean_fill_mse)
        return 1 - own / fill if fill > 0 else 0.0

    def sentence(self) -> str:
        """The numbers in words."""
        share = self.better
        word = "better" if share >= 0 else "worse"
        errors = f"masked-patch MSE {self.mse:.4f}, mean fill {self.mean_fill_mse:.4f}"
        if self.rmse is not None:
            errors = f"masked-patch RMSE {self.rmse[0]:.4g}, mean fill {self.rmse[1]:.4g}"
        numbers = f"{errors}, {abs(share):.0%} {word}"
        return numbers + (f" ({self.note})" if self.note else "")


@torch.inference_mode()
def reconstruct(
    method: MAE,
    images: Tensor,
    rand: Randomness,
    paths: Sequence[str],
    mask_ratio: float | None = None,
    cheat_scale: bool = False,
    bands: Sequence[int] = (),
    noise: Tensor | None = None,
    keep: int | None = None,
) -> list[Reconstruction]:
    """Hide patches of images (B, C, H, W), uint8 or normalised, and let the model fill them in.
    `bands` are shown (see `display_of`); `noise` (B, L) and `keep` decide the mask, as of `MAE`.

    A model of normalised pixels predicts no brightness or contrast. They are estimated from visible
    patches near by, or with `cheat_scale` taken from the hidden truth, and the picture then says
    so.
    """
    encoder = method.encoder
    display = display_of(encoder, bands)
    training = method.training
    method.eval()  # one mask an image, and every hidden patch, whatever training saves
    out = method(images, rand, noise=noise, mask_ratio=mask_ratio, keep=keep, full=True)
    method.train(training)
    hidden = out["mask"][..., None].bool()  # (B, L, 1)
    patches = patchify(encoder.normalize(images), encoder.patch)
    pred, note = out["pred"].to(patches.dtype), ""
    if method.target == "norm_pixels":
        mean, variance = patch_statistics(patches)
        if not cheat_scale:
            mean, variance = (from_visible(v, hidden, encoder.grid) for v in (mean, variance))
        pred = pred * (variance + 1e-6).sqrt() + mean
        note = LEAK if cheat_scale else _FAIR

    def pixels(values: Tensor) -> Tensor:
        unit = unpatchify(values, encoder.patch, encoder.grid) * encoder.std + encoder.mean
        return unit.clamp(0, 1) if encoder.value_range is None else unit  # deep ones are unclipped

    true, output = pixels(patches), pixels(pred)
    area = unpatchify(hidden.expand_as(patches).to(patches.dtype), encoder.patch, encoder.grid)
    fill = (true * (1 - area)).sum((2, 3), keepdim=True) / (1 - area).sum((2, 3), keepdim=True)
    pasted = true * (1 - area) + output * area
    pictures = (true, true.masked_fill(area.bool(), float("nan")), output, pasted)
    errors = [
        ((other - true).square() * area).sum((1, 2, 3)) / area.sum((1, 2, 3))
        for other in (output, fill)
    ]
    shown = [p.float().cpu().numpy() for p in pictures]
    return [
        Reconstruction(
            path,
            tuple(s[i] for s in shown),
            float(errors[0][i]),
            float(errors[1][i]),
            float(out["sample_loss"][i]),
            note,
            display,
        )
        for i, path in enumerate(paths)
    ]


def from_visible(values: Tensor, hidden: Tensor, grid: tuple[int, int]) -> Tensor:
    """Smooth the values (B, L, 1) of visible patches over the grid: Gaussian weights, one patch
    wide.
    """
    row = torch.arange(grid[0], device=values.device).repeat_interleave(grid[1])
    col = torch.arange(grid[1], device=values.device).repeat(grid[0])
    distance = (row[:, None] - row).square() + (col[:, None] - col).square()
    score = (-0.5 * distance.to(values.dtype))[None].expand(len(values), -1, -1)
    weight = score.masked_fill(hidden.transpose(1, 2), float("-inf")).softmax(dim=-1)
    return weight @ values


def display_gain(rows: Sequence[Reconstruction]) -> float:
    """How much to brighten dark images (fluorescence) so that they can be seen; 1 for others, and
    for deep ones, which are stretched.
    """
    if rows[0].rmse is not None:
        return 1.0
    return gain_of(np.concatenate([r.pictures[0].ravel() for r in rows]))


def sheet(rows: Sequence[Reconstruction], title: str) -> Image.Image:
    """One row for each image; small pictures are enlarged without smoothing, so that pixels stay
    honest.
    """
    tile_w, tile_h = tile_size(rows)
    gain = display_gain(rows)
    row_h = tile_h + LINE * 2 + GAP
    texts = [[short_path(r.path, 60), r.sentence()] for r in rows]
    width = max(4 * tile_w + 3 * GAP, *(wide(t) for pair in texts for t in pair))
    heads = [title + shown_as(rows, gain), ""]
    canvas, top = canvas_of(heads, width, row_h * len(rows) - GAP)
    draw = ImageDraw.Draw(canvas)
    for i, head in enumerate(HEADS):
        at = (GAP + i * (tile_w + GAP), GAP + LINE)
        draw.text(at, head, fill=SOFT, font=font())
    for number, (row, lines) in enumerate(zip(rows, texts, strict=True)):
        y = top + number * row_h
        for i, picture in enumerate(tiles(row, gain, (tile_w, tile_h))):
            canvas.paste(picture, (GAP + i * (tile_w + GAP), y))
        for i, line in enumerate(lines):
            fill = BAD if LEAK in line else TEXT
            draw.text((GAP, y + tile_h + i * LINE), line, fill=fill, font=font())
    return canvas


def tile_size(rows: Sequence[Reconstruction], side: int = 160) -> tuple[int, int]:
    """Width and height of a shown picture: a whole multiple of its pixels, about `side`."""
    height, width = rows[0].pictures[0].shape[1:]
    scale = max(1, round(side / max(height, width)))
    return width * scale, height * scale


def tiles(row: Reconstruction, gain: float, size: tuple[int, int]) -> list[Image.Image]:
    """The four pictures as they are shown, enlarged without smoothing."""
    display = _display(row)
    window = display.window(row.pictures[0])
    return [
        Image.fromarray(to_rgb(picture, gain, display.bands, window)).resize(
            size, Image.Resampling.NEAREST
        )
        for picture in row.pictures
    ]


def shown_as(rows: Sequence[Reconstruction], gain: float) -> str:
    """What has to be said of how pictures are shown, or nothing."""
    return _display(rows[0]).title() + (f", shown {gain:g} times brighter" if gain > 1 else "")


def _display(row: Reconstruction) -> Display:
    channels = row.pictures[0].shape[0]
    first = (0, 1, 2) if channels >= 3 else (0,)
    return row.display or Display(first, tuple(b + 1 for b in first), channels)
