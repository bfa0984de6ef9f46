"""Pictures of a run folder within a page: small ones as they are, large ones made smaller."""

from __future__ import annotations

import functools
import io
import os
import re
from pathlib import Path

from openmae.report.html import picture, text

_ASIS = 120_000  # bytes up to which a PNG is taken as it is
_PIXELS = 40_000_000
_WIDE = 1100  # pixels
_BUDGET = 4_500_000  # bytes of all pictures of a page
_TIMES = 8  # pictures of a strip over time
_OTHERS = 6
_STEP = re.compile(r"step_(\d{1,12})\.png$")
_SKIPPED = ("loss.png",)  # the page has its curves


def over_time(folder: Path) -> str:
    """The reconstructions of the run on fixed images, first to last, side by side."""
    found = sorted((int(m[1]), p) for p in _listed(folder) if (m := _STEP.match(p.name)))
    if not found:
        return ""
    chosen = _even(found, _TIMES)
    shown, spent = [], 0
    for step, path in chosen:
        made = _embedded(path, f"reconstructions at step {step:,}", _BUDGET - spent)
        spent += len(made)
        if made:
            shown.append(f"<figure>{made}<figcaption>step {step:,}</figcaption></figure>")
    left = len(found) - len(shown)
    more = f" {left} more are in pictures/." if left else ""
    note = (
        "<p>The same images and masks each time, so that the pictures can be compared. In each row:"
        f" original, masked, output, pasted.{more}</p>"
    )
    strip = f'<div class="strip" tabindex="0" role="region" aria-label="{_LABEL}">'
    return note + strip + "".join(shown) + "</div>" if shown else ""


_LABEL = "Reconstructions over time"


def others(folder: Path) -> str:
    """Other pictures that the run wrote."""
    paths = [p for p in _listed(folder) if not _STEP.match(p.name) and p.name not in _SKIPPED]
    shown = []
    for path in paths[:_OTHERS]:
        name = path.stem.replace("_", " ")
        made = _embedded(path, f"{name}, written by the run", _BUDGET // _OTHERS)
        shown += [f"<figure>{made}<figcaption>{text(name)}</figcaption></figure>"] if made else []
    left = len(paths) - len(shown)
    more = f"<p>{left} more are in pictures/.</p>" if left else ""
    return f'<div class="shots">{"".join(shown)}</div>{more}' if shown else ""


def last(folder: Path, name: str) -> str:
    """The newest reconstructions of a run, to stand beside those of others."""
    found = sorted((int(m[1]), p) for p in _listed(folder) if (m := _STEP.match(p.name)))
    if not found:
        return ""
    step, path = found[-1]
    made = _embedded(path, f"reconstructions of {name} at step {step:,}", _BUDGET // _TIMES)
    words = f"{text(name)}, step {step:,}"
    return f"<figure>{made}<figcaption>{words}</figcaption></figure>" if made else ""


def _listed(folder: Path) -> list[Path]:
    try:
        names = sorted(n for n in os.listdir(folder) if n.lower().endswith(".png"))
    except OSError:
        return []
    return [folder / n for n in names if (folder / n).is_file()]


def _even(items: list[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _embedded(path: Path, alt: str, budget: int) -> str:
    try:
        told = path.stat()
        made = _made(str(path), told.st_mtime_ns, told.st_size)
    except OSError:
        return ""
    if made is None:
        return ""
    data, kind, width, height = made
    if len(data) * 4 // 3 > budget:
        return ""
    return picture(data, alt, kind, f' width="{width}" height="{height}"')


@functools.lru_cache(maxsize=64)
def _made(path: str, _changed: int, size: int) -> tuple[bytes, str, int, int] | None:
    """Bytes, type, width and height; None for what is no picture. Kept for a page made again."""
    from PIL import Image

    try:
        with open(path, "rb") as file:
            data = file.read(60_000_000)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > _PIXELS:
                return None
            image.load()
            if size <= _ASIS:
                return data, "image/png", image.width, image.height
            small = image.convert("RGB")
            small.thumbnail((_WIDE, 4 * _WIDE))
            buffer = io.BytesIO()
            small.save(buffer, "WEBP", quality=82)
            return buffer.getvalue(), "image/webp", small.width, small.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
