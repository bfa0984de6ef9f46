"""Reconstructions of many images, or under many masks or steps, as one sheet or as an animation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from openmae.report.pictures import (
    LEAK,
    Reconstruction,
    display_gain,
    sheet,
    shown_as,
    tile_size,
    tiles,
)
from openmae.report.picturestyle import GAP, LINE, SOFT, TEXT, canvas_of, font

Column = tuple[str, Sequence[Reconstruction]]
"""A label, such as "hidden 75%", and a reconstruction of each image."""

_SIDE = 112  # pixels, about, of a tile
_FRAME, _LAST = 500, 2000  # milliseconds


def many(rows: Sequence[Reconstruction], title: str, most_columns: int = 4) -> Image.Image:
    """Masked | output | original of many images, several in a row (as Figure 2 of the paper)."""
    gain, (wide, high) = display_gain(rows), tile_size(rows, _SIDE)
    across = min(most_columns, len(rows))
    cell_w, cell_h = 3 * (wide + 2) + 2 * GAP, high + GAP
    notes = [title + shown_as(rows, gain), "masked | output | original", _mean(rows)]
    size = (across * cell_w, -(-len(rows) // across) * cell_h)
    canvas, top = _canvas(notes, *size, rows)
    for number, row in enumerate(rows):
        x, y = GAP + number % across * cell_w, top + number // across * cell_h
        original, masked, output, _ = tiles(row, gain, (wide, high))
        for i, picture in enumerate((masked, output, original)):
            canvas.paste(picture, (x + i * (wide + 2), y))
    return canvas


def columns(found: Sequence[Column], title: str) -> Image.Image:
    """A row for each image: the original, then masked above output for each column, with the mean
    errors over the images below its label.
    """
    rows = found[0][1]
    gain, (wide, high) = display_gain(rows), tile_size(rows, _SIDE)
    step_x, step_y = max(wide, 104) + GAP, 2 * high + 2 + GAP
    notes = [title + shown_as(rows, gain), "above masked, below output; MSE on hidden patches"]
    notes[1] += ", and that of a mean fill"
    size = ((len(found) + 1) * step_x, len(rows) * step_y + 2 * LINE)
    canvas, top = _canvas(notes, *size, rows)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, top), "original", fill=SOFT, font=font())
    for number, (label, column) in enumerate(found):
        x = GAP + (number + 1) * step_x
        model, fill = means(column)
        draw.text((x, top), label, fill=TEXT, font=font())
        draw.text((x, top + LINE), f"{model:.4f} / {fill:.4f}", fill=SOFT, font=font())
        for i, row in enumerate(column):
            y = top + 2 * LINE + i * step_y
            original, masked, output, _ = tiles(row, gain, (wide, high))
            canvas.paste(masked, (x, y))
            canvas.paste(output, (x, y + high + 2))
            if number == 0:
                canvas.paste(original, (GAP, y + (high + 2) // 2))
    return canvas


def animate(found: Sequence[Column], title: str, path: Path, kind: str) -> None:
    """A sheet for each column, one after the other, endlessly; `kind` is WEBP or GIF."""
    sheets = [sheet(rows, f"{title}, {label}") for label, rows in found]
    size = (max(s.width for s in sheets), max(s.height for s in sheets))
    frames = []
    for number, one in enumerate(sheets):
        frame = Image.new("RGB", (size[0], size[1] + 6), "white")
        frame.paste(one, (0, 6))
        done = round(size[0] * (number + 1) / len(sheets))  # how far the animation is
        ImageDraw.Draw(frame).rectangle((0, 0, done, 3), fill="#3b73b9")
        frames.append(frame)
    times = [_FRAME] * (len(frames) - 1) + [_LAST]
    more = {"quality": 90, "method": 4} if kind == "WEBP" else {"optimize": True}
    frames[0].save(
        path, kind, save_all=True, append_images=frames[1:], duration=times, loop=0, **more
    )


def means(rows: Sequence[Reconstruction]) -> tuple[float, float]:
    """Mean squared errors on hidden patches, over images: of the model, of a mean fill."""
    count = len(rows)
    return sum(r.mse for r in rows) / count, sum(r.mean_fill_mse for r in rows) / count


def _mean(rows: Sequence[Reconstruction]) -> str:
    model, fill = means(rows)
    return f"masked-patch MSE {model:.4f}, mean fill {fill:.4f} (mean over {len(rows)} images)"


def _canvas(
    notes: Sequence[str], width: int, height: int, rows: Sequence[Reconstruction]
) -> tuple[Image.Image, int]:
    """A white sheet with lines above; returns where the pictures begin."""
    lines = [*notes, *([rows[0].note] if rows[0].note else [])]
    return canvas_of(lines, width, height, bad=(LEAK,))
