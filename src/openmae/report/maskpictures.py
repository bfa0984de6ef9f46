"""Masks as pictures: classes laid over an image with a legend, and a sheet beside the truth.

H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from openmae.data.maskfile import Labels
from openmae.report.classcolours import class_colours
from openmae.report.picturestyle import (
    GAP,
    LINE,
    SOFT,
    TEXT,
    Legend,
    Plates,
    canvas_of,
    font,
    framed,
    plain,
    plate_size,
    resized,
    short_path,
    shown_size,
    wide,
)

_SIDE, _WIDEST = 320, 480  # pixels of a picture in a sheet, about and at most
_NAMED = 0.01  # of the picture: smaller classes have no plate in it
_LINES = 0.15  # of the picture: where more of it is a line, none is drawn
_SEARCH = 160  # pixels of the longer side where the middle of a region is looked for


def colours_of(labels: Labels) -> NDArray[np.uint8]:
    """(K, 3), the colours in files of masks: the data's own, or those that Pascal VOC gives to the
    classes 1, 2 ...
    """
    if labels.colours:
        return np.array(labels.colours, dtype=np.uint8)
    table = np.zeros((len(labels.values), 3), dtype=np.uint8)
    for number in range(len(table)):
        rest = number + 1
        for bit in range(7, -1, -1):
            for channel in range(3):
                table[number, channel] |= ((rest >> channel) & 1) << bit
            rest >>= 3
    return table


def shown_colours(labels: Labels) -> NDArray[np.uint8]:
    """(K, 3), the colours in pictures: the data's own, or those of the palette."""
    return class_colours(len(labels.values), labels.colours)


def overlay(
    picture: NDArray[np.uint8],
    mask: NDArray[np.integer],
    colours: NDArray[np.uint8],
    opacity: float = 0.5,
) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with the classes (H, W) over it; where there is no label, as it is."""
    known = mask >= 0
    painted = colours[np.where(known, mask, 0)].astype(np.float32)
    mixed = (1 - opacity) * picture.astype(np.float32) + opacity * painted
    return np.where(known[..., None], np.rint(mixed), picture).astype(np.uint8)


def save_mask(path: Path, mask: NDArray[np.integer], labels: Labels) -> None:
    """Write classes (H, W) with the values that the data's own masks have: a palette picture up to
    255, of colour masks an RGB one, else 16 bits.
    """
    colours = colours_of(labels)
    if labels.colours:
        Image.fromarray(colours[mask]).save(path)
        return
    values = np.array(labels.values)[mask]
    if max(labels.values) > 255:
        Image.fromarray(values.astype(np.uint16)).save(path)
        return
    picture = Image.fromarray(values.astype(np.uint8), mode="P")
    table = np.zeros((256, 3), dtype=np.uint8)
    table[list(labels.values)] = colours
    picture.putpalette(table.tobytes())
    picture.save(path)


def draw_classes(
    picture: NDArray[np.uint8],
    mask: NDArray[np.integer],
    names: Sequence[str],
    colours: NDArray[np.uint8],
    path: str,
    title: str = "",
    opacity: float = 0.5,
) -> Image.Image:
    """An image (H, W, 3) as it is shown with the classes (H, W) over it, their names in their
    largest regions, and a legend with the share of each class that is there.
    """
    height, width = mask.shape
    shown = _laid(picture, mask, colours, opacity, shown_size(width, height))
    shares = shares_of(mask, len(names))
    plates = Plates(shown)
    for k in sorted(shares, key=lambda k: -shares[k]):
        if shares[k] >= _NAMED:
            x, y = middle(mask == k)
            text = plain(names[k])
            across, high = plate_size(text)
            corner = (x * shown.width - across / 2, y * shown.height - high / 2)
            plates.put(text, colours[k], [corner])
    legend = Legend.of(shares, names, colours.tolist(), lambda k: percent(shares[k]))
    many = f"{len(shares)} of {len(names)} classes, at {opacity:.0%} over the image"
    return framed(shown, [title] if title else [], [short_path(path, 90), many], legend)


@dataclass(frozen=True)
class SheetRow:
    """One image: its name, how it looks (H, W, 3), the truth (H, W), what was said, and what has to
    be told of how it is shown.
    """

    path: str
    picture: NDArray[np.uint8]
    truth: NDArray[np.integer]
    said: NDArray[np.integer]
    shown: str = ""


def sheet(
    rows: Sequence[SheetRow], names: Sequence[str], colours: NDArray[np.uint8], title: str = ""
) -> Image.Image:
    """A row for each image: image, truth and prediction; below all rows the classes that are there,
    with their share of the truth and of the prediction.
    """
    sizes = [_tile(*row.truth.shape[::-1]) for row in rows]
    across = max(w for w, _ in sizes)
    texts = [[short_path(row.path, 60), _right(row)] for row in rows]
    truth = _of_all([row.truth for row in rows], len(names))
    said = _of_all([row.said for row in rows], len(names))
    there = {k: truth.get(k, 0) + said.get(k, 0) for k in (*truth, *said)}
    legend = Legend.of(there, names, colours.tolist(), lambda k: (
        f"{percent(truth.get(k, 0))} / {percent(said.get(k, 0))}"
    ))  # fmt: skip
    width = max(3 * across + 2 * GAP, legend.least(), *(wide(t) for pair in texts for t in pair))
    heads = [title, "legend: share of the truth / of the prediction", ""]
    below = legend.size(width)[1]
    height = sum(h + 2 * LINE + GAP for _, h in sizes) + below
    canvas, top = canvas_of(heads, width, height)
    draw = ImageDraw.Draw(canvas)
    for i, head in enumerate(("image", "truth", "prediction")):
        draw.text((GAP + i * (across + GAP), top - GAP - LINE), head, fill=SOFT, font=font())
    for row, size, words in zip(rows, sizes, texts, strict=True):
        pictures = [resized(Image.fromarray(row.picture), size)]
        pictures += [_laid(row.picture, m, colours, 0.5, size) for m in (row.truth, row.said)]
        for i, picture in enumerate(pictures):
            canvas.paste(picture, (GAP + i * (across + GAP), top))
        for i, line in enumerate(words):
            at = (GAP, top + size[1] + i * LINE)
            draw.text(at, line, fill=SOFT if i else TEXT, font=font())
        top += size[1] + 2 * LINE + GAP
    legend.draw(draw, (GAP, top), canvas.width - 2 * GAP)
    return canvas


def shares_of(mask: NDArray[np.integer], count: int) -> dict[int, float]:
    """Of the labelled pixels of a mask (H, W), the share of each class that is there."""
    known = mask[mask >= 0]
    counts = np.bincount(known.ravel(), minlength=count)
    return {k: float(n / known.size) for k, n in enumerate(counts.tolist()) if n}


def _of_all(masks: Sequence[NDArray[np.integer]], count: int) -> dict[int, float]:
    return shares_of(np.concatenate([m.ravel() for m in masks]), count)


def percent(share: float) -> str:
    """A share in words; what is there is never 0.0%."""
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def middle(inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Across and down, in [0, 1]: the place within pixels (H, W) that is farthest from all others,
    so in the thickest part.
    """
    from scipy.ndimage import distance_transform_cdt

    step = max(1, max(inside.shape) // _SEARCH)
    small = inside[step // 2 :: step, step // 2 :: step]
    if not small.any():  # of rows or points between those that are looked at
        small, step = inside, 1
    deep = distance_transform_cdt(np.pad(small, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(deep.argmax()), deep.shape)
    half = step // 2 + 0.5
    return (column * step + half) / inside.shape[1], (row * step + half) / inside.shape[0]


def _laid(
    picture: NDArray[np.uint8],
    mask: NDArray[np.integer],
    colours: NDArray[np.uint8],
    opacity: float,
    size: tuple[int, int],
) -> Image.Image:
    """The overlay at the size that is shown, with lines between the classes."""
    shown = np.asarray(resized(Image.fromarray(picture), size))
    small = np.asarray(
        Image.fromarray(mask.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    )
    laid = overlay(shown, small, colours, opacity)
    edge = np.zeros(small.shape, dtype=np.bool_)
    edge[:, 1:] |= small[:, 1:] != small[:, :-1]
    edge[1:] |= small[1:] != small[:-1]
    if edge.mean() <= _LINES:
        laid[edge] = 0
    return Image.fromarray(laid)


def _tile(width: int, height: int) -> tuple[int, int]:
    """How large an image is shown in a sheet: small ones a whole number of times larger."""
    zoom = max(1, round(_SIDE / max(width, height)))
    factor = min(zoom, _WIDEST / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _right(row: SheetRow) -> str:
    known = row.truth >= 0
    right = (row.truth == row.said)[known]
    words = f"{right.mean():.1%} of the pixels right" if right.size else "no pixel has a label"
    return words + row.shown
