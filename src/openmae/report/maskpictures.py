"""Masks as pictures: colours of classes, classes laid over an image, and a sheet beside the truth.

H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from openmae.data.maskfile import Labels

_MARGIN, _LINE = 8, 18  # pixels
_WIDEST = 480  # of a picture in a sheet
_MOST_NAMES = 24


def colours_of(labels: Labels) -> NDArray[np.uint8]:
    """(K, 3): the data's own colours, or those that Pascal VOC gives to the classes 1, 2 ..."""
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


def sheet(
    rows: Sequence[tuple[str, Sequence[NDArray[np.uint8]]]],
    heads: Sequence[str],
    names: Sequence[str],
    colours: NDArray[np.uint8],
) -> Image.Image:
    """Rows of (name, pictures) below each other, with heads above and the colours below."""
    scaled = [(name, [_fitted(p) for p in pictures]) for name, pictures in rows]
    wide = max(p.width for _, pictures in scaled for p in pictures)
    columns = len(heads)
    width = columns * (wide + _MARGIN) + _MARGIN
    shown = list(names)[:_MOST_NAMES]
    per_line = max(1, width // 150)
    height = _LINE + sum(max(p.height for p in ps) + _LINE + _MARGIN for _, ps in scaled)
    height += _LINE * (-(-len(shown) // per_line) + 1)
    page = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, head in enumerate(heads):
        draw.text((_MARGIN + i * (wide + _MARGIN), 2), head, fill="black", font=font)
    top = _LINE
    for name, pictures in scaled:
        for i, picture in enumerate(pictures):
            page.paste(picture, (_MARGIN + i * (wide + _MARGIN), top))
        top += max(p.height for p in pictures)
        plain = name.encode("utf-8", "replace").decode()
        draw.text((_MARGIN, top), plain[-120:], fill="black", font=font)
        top += _LINE + _MARGIN
    for i, name in enumerate(shown):
        left, at = _MARGIN + i % per_line * 150, top + i // per_line * _LINE
        draw.rectangle((left, at + 2, left + 12, at + 14), fill=tuple(int(v) for v in colours[i]))
        plain = name.encode("utf-8", "replace").decode()
        draw.text((left + 18, at), plain[:18], fill="black", font=font)
    if len(names) > len(shown):
        draw.text((_MARGIN, height - _LINE), f"and {len(names) - len(shown)} more", fill="black")
    return page


def _fitted(picture: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(picture)
    if image.width <= _WIDEST:
        return image
    return image.resize((_WIDEST, max(1, round(image.height * _WIDEST / image.width))))
